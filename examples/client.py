"""Ask a running server: recommend, explain, tell it an event, and see the answer change.

    KGRANK_TARGET=localhost:50051 python client.py USER

Needs the base install only: pip install . in the clone of kgrank, until that is published
"""

import sys

from kgrank.client import Client, event
from kgrank.errors import CallError, InvalidRequestError


def main(user_id: str) -> None:
    """Print what the server says."""
    with Client(timeout_s=10) as client:
        answer = client.recommend(user_id, k=5, details=True, reasons=True)
        print(f"{user_id} is {answer.DESCRIPTOR.fields_by_name['user_state'].enum_type.values[answer.user_state].name}")
        for result in answer.results:
            why = result.reasons[0].text if result.reasons else "no path leads to it"
            print(f"{result.score:8.3f}  {result.product_id}  {result.title}: {why}")

        if not answer.results:
            print("there is nothing left to recommend")
            return

        best = answer.results[0].product_id
        explained = client.explain(user_id, best)
        parts = explained.result.components
        print(f"{best} stands at place {explained.rank}: graph {parts.graph:.2f}, history {parts.history:.2f}")

        outcome = client.write_event(event(user_id, best, "purchase"))
        print(f"event {outcome.event_id} is on disk; the next answer knows it:")
        print([result.product_id for result in client.recommend(user_id, k=5).results])

        try:
            client.recommend(user_id, k=0)
        except InvalidRequestError as error:
            print(f"refused: {error.violations[0].field} {error.violations[0].description}")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "somebody-new")
    except CallError as error:
        sys.exit(str(error))
