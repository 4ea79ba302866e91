"""Cold starts: the questions of another protocol, with products or users held out of training entirely.

Both take a split that asks `leave-one-out` or `temporal` questions and hold something out of it. What the test holds
out, and what validation holds out, are disjoint and drawn by one seed; neither is in the training histories.

*cold-products*. A share of the products loses every interaction: in what is trained on, and in what is known of users.
Asked is, in the same moments as before, for users who went on to such a product:

- *cold products*: all products may be ranked;
- *cold products, among cold ones*: only those of the same draw;
- *warm products*: the same split, the same model, the users who went on to any other product. What cold products reach
  as a share of this says how much is lost on a product without a past.

Validation asks for cold products and for warm ones in equal parts, so that nothing is tuned to rank what is new at the
expense of the rest.

*cold-users*. A share of the users loses every interaction in what is trained on. Asked are those who had more
interactions than are ever given; the moment and the right products are the same in all questions, and only what is
given of the history differs:

- *first n events*: the user's first n; what came between them and the question is not given;
- *last n events*: the n before the question, as if the user had joined n events ago. Nothing is missing in between, so
  the distance to *whole history* is due to the shortness of the history alone;
- *whole history*: everything before the question: what a user of some standing gets.

Validation asks for *last n events*, each n, and *whole history*, in equal parts.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kg.snapshot import Histories
from model.case import Case, Question, Split, joined

Bools = npt.NDArray[np.bool_]

COLD, AMONG_COLD, WARM = "cold products", "cold products, among cold ones", "warm products"
WHOLE = "whole history"


def first_events(count: int) -> str:
    """Return the name of the question with a user's first interactions given."""
    return f"first {count} event{'' if count == 1 else 's'}"


def last_events(count: int) -> str:
    """Return the name of the question with the interactions just before it given."""
    return f"last {count} event{'' if count == 1 else 's'}"


def hold_out_products(base: Split, histories: Histories) -> Split:
    """Hold a share of the products that have interactions out of a split.

    Args:
        base: a `leave-one-out` or `temporal` split.
        histories: all interactions.
    """
    config = base.config
    had = np.bincount(histories.product_index, minlength=len(base.test.candidates)) > 0
    for_validation, for_test = _draw(had, config.cold_share, config.cold_seed)
    held_out = for_validation | for_test

    def asked(case: Case, cold: Bools) -> tuple[Case, Case, Case]:
        known = _without(case.known, held_out)
        case = replace(case, known=known, had=case.histories)
        case = case.take(np.flatnonzero(np.diff(known.offsets)[case.user_index] >= config.min_history))
        chosen = case.narrowed(cold[case.truth_product_index], f"{case.name}, {COLD}")
        return (
            chosen,
            replace(chosen, name=f"{case.name}, {AMONG_COLD}", candidates=chosen.candidates & cold),
            case.narrowed(~held_out[case.truth_product_index], f"{case.name}, {WARM}"),
        )

    validation, test = asked(base.validation, for_validation), asked(base.test, for_test)
    chosen, _, warm = validation
    generator = np.random.default_rng([config.cold_seed, 1])
    sample = np.sort(generator.permutation(len(warm))[: len(chosen)])
    return Split(
        config=config,
        train=_without(base.train, held_out),
        validation=replace(joined([chosen, warm.take(sample)]), name="validation, cold and warm products"),
        test=test[0],
        questions=tuple(map(Question, (COLD, AMONG_COLD, WARM), validation, test)),
        held_out=held_out,
    )


def hold_out_users(base: Split, histories: Histories) -> Split:
    """Hold a share of the users out of a split.

    Args:
        base: a `leave-one-out` or `temporal` split.
        histories: all interactions.
    """
    config = base.config
    leave_one_out = config.base == "leave-one-out"
    enough = np.diff(base.test.known.offsets) > max(config.cold_events)
    for_validation, for_test = _draw(enough, config.cold_share, config.cold_seed)
    held_out = for_validation | for_test

    def asked(case: Case, users: Bools) -> dict[str, Case]:
        # Leave-one-out holds back nothing of the users who are not asked about.
        known = histories if leave_one_out else case.known
        known = known.where(~held_out[known.users_of_rows()])
        had = np.diff(case.known.offsets)[case.user_index]
        part = case.take(np.flatnonzero(users[case.user_index] & (had > max(config.cold_events))))
        whole = part.histories
        part = replace(part, known=known, had=whole)
        given = {first_events(count): first(whole, count) for count in config.cold_events}
        given |= {last_events(count): last(whole, count) for count in config.cold_events if count}
        given[WHOLE] = whole
        return {
            name: replace(part, name=f"{case.name}, {name}", given=part_given) for name, part_given in given.items()
        }

    # The users are others, so leave-one-out may ask both for the last interaction.
    validation = asked(base.test if leave_one_out else base.validation, for_validation)
    test = asked(base.test, for_test)
    mixed = [validation[last_events(count) if count else first_events(0)] for count in config.cold_events]
    questions = tuple(Question(name, validation[name], test[name]) for name in test)
    return Split(
        config=config,
        train=test[WHOLE].known if leave_one_out else validation[WHOLE].known,
        validation=replace(joined([*mixed, validation[WHOLE]]), name="validation, few events and whole histories"),
        test=questions[0].test,
        questions=questions,
    )


def first(histories: Histories, count: int) -> Histories:
    """Return the first interactions of every history, at most `count`."""
    place = np.arange(len(histories.product_index)) - histories.offsets[:-1][histories.users_of_rows()]
    return histories.where(place < count)


def last(histories: Histories, count: int) -> Histories:
    """Return the last interactions of every history, at most `count`."""
    later = histories.offsets[1:][histories.users_of_rows()] - 1 - np.arange(len(histories.product_index))
    return histories.where(later < count)


def _draw(eligible: Bools, share: float, seed: int) -> tuple[Bools, Bools]:
    """Return two disjoint draws, each of a share of what is eligible: for validation, and for the test."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(eligible))
    count = round(share * len(order))
    drawn = np.zeros((2, len(eligible)), np.bool_)
    drawn[0, order[:count]] = True
    drawn[1, order[count : 2 * count]] = True
    return drawn[0], drawn[1]


def _without(histories: Histories, products: Bools) -> Histories:
    return histories.where(~products[histories.product_index])
