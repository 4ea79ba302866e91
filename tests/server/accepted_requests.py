"""A request for every call that has text in it, which a server accepts: what attacks change one field of."""

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from kgrank.v1 import (
    catalog_service_pb2,
    common_pb2,
    event_service_pb2,
    model_service_pb2,
    ranking_service_pb2,
    rule_service_pb2,
    user_service_pb2,
)

ATTACKED = "attack-product"

_PRODUCT_TEXTS = ("title", "description", "brand", "category", "attributes")


def accepted_requests() -> list[Message]:
    """Return a request for every call that has text in it, with all of its fields of text, which the server accepts.

    The order is that of a server that has nothing of `attack-...` yet: first what makes, at last what takes away.
    """
    event = event_service_pb2.Event(
        user_id="attack-user", product_id=ATTACKED, type=common_pb2.INTERACTION_TYPE_VIEW, attribution_token="token"
    )
    told = common_pb2.ContextEvent(product_id=ATTACKED, type=common_pb2.INTERACTION_TYPE_VIEW)
    context = common_pb2.Context(seed_product_ids=[ATTACKED], events=[told], query="thing", categories=["Things"])
    colour = common_pb2.AttributeFilter(key="colour", values=["red"])
    chosen = common_pb2.Filter(categories=["Things"], brands=["Acme"], attributes=[colour])
    brass = catalog_service_pb2.Fact(
        head=catalog_service_pb2.FactNode(kind="product", id=ATTACKED),
        relation="MADE_OF",
        tail=catalog_service_pb2.FactNode(kind="material", id="attack-brass"),
    )
    product = catalog_service_pb2.Product(
        product_id=ATTACKED,
        title="Thing",
        description="a thing",
        brand="attack-brand",
        category=["Things"],
        attributes={"colour": "red"},
    )
    recommend = ranking_service_pb2.RecommendRequest(
        user_id="attack-user",
        k=3,
        exclude_product_ids=["product-01"],
        allowed_product_ids=[ATTACKED, "product-02"],
        context=context,
        filter=chosen,
        language_code="en",
        include_reasons=True,
    )
    rule = rule_service_pb2.Rule(rule_id="attack-rule", action=rule_service_pb2.Rule.ACTION_BOOST, brand="attack-brand")
    share = model_service_pb2.TrafficShare(model="models/attack", percent=1)
    return [
        catalog_service_pb2.UpsertProductsRequest(products=[product], update_mask=FieldMask(paths=_PRODUCT_TEXTS)),
        catalog_service_pb2.UpsertFactsRequest(facts=[brass]),
        catalog_service_pb2.GetProductRequest(product_id=ATTACKED),
        catalog_service_pb2.ListProductsRequest(),
        catalog_service_pb2.ListFactsRequest(product_id=ATTACKED),
        event_service_pb2.WriteEventRequest(event=event),
        event_service_pb2.WriteEventsRequest(events=[event]),
        event_service_pb2.IngestEventsRequest(event=event),
        model_service_pb2.ListModelsRequest(),
        model_service_pb2.ActivateModelRequest(name="models/attack"),
        model_service_pb2.SetTrafficRequest(traffic=model_service_pb2.Traffic(shares=[share])),
        recommend,
        ranking_service_pb2.BatchRecommendRequest(sequence=1, request=recommend),
        ranking_service_pb2.RankRequest(
            user_id="attack-user", product_ids=[ATTACKED], context=context, language_code="en"
        ),
        ranking_service_pb2.SimilarProductsRequest(
            product_id=ATTACKED,
            exclude_product_ids=["product-01"],
            allowed_product_ids=["product-02"],
            filter=chosen,
            language_code="en",
        ),
        ranking_service_pb2.SearchRequest(
            user_id="attack-user",
            query="thing",
            filter=chosen,
            exclude_product_ids=["product-01"],
            allowed_product_ids=["product-02"],
            context=context,
            language_code="en",
        ),
        ranking_service_pb2.ExplainRequest(
            user_id="attack-user", product_id=ATTACKED, context=context, language_code="en"
        ),
        rule_service_pb2.UpsertRuleRequest(rule=rule),
        rule_service_pb2.ListRulesRequest(),
        user_service_pb2.GetUserProfileRequest(user_id="attack-user"),
        user_service_pb2.ExportUserRequest(user_id="attack-user"),
        rule_service_pb2.DeleteRuleRequest(rule_id="attack-rule"),
        catalog_service_pb2.DeleteFactsRequest(facts=[brass]),
        catalog_service_pb2.DeleteProductsRequest(product_ids=[ATTACKED]),
        user_service_pb2.EraseUserRequest(user_id="attack-user"),
    ]
