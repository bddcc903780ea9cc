"""What people think of a model: stars and a review, one of each person."""
from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tfgpt.store.access.rights import Caller, name_of
from tfgpt.store.catalog import MOST_LISTED, find, log
from tfgpt.store.database import Database
from tfgpt.store.fields import check_review, check_word
from tfgpt.store.reference import Reference
from tfgpt.store.schema import Model, Rating, now


def rate(database: Database, reference: Reference, actor: str | Caller, stars: int, review: str = "") -> Reference:
    """Rate a version of a model, in place of what the same person said of the model before.

    Args:
        database: the catalog's.
        reference: of the version.
        actor: who rates.
        stars: 1 to 5.
        review: plain text; empty = none.

    Raises:
        StoreError: no such version, or a rating that is not allowed.
    """
    rater = name_of(actor)
    check_word("owner", rater)
    check_review(stars, review)
    with database.writing() as session:
        row = find(session, reference, actor if isinstance(actor, Caller) else None)
        model = session.scalar(select(Model).where(Model.id == row.model_id).with_for_update())
        old = session.get(Rating, (model.id, rater))
        rating = old or Rating(model_id=model.id, rater=rater)
        rating.version, rating.stars, rating.review, rating.rated_at = row.number, stars, review, now()
        session.add(rating)
        session.flush()
        count, total = session.execute(select(func.count(), func.sum(Rating.stars)).where(Rating.model_id == model.id)).one()
        model.rating_count, model.rating_sum = count, int(total)
        log(session, actor, "rate", model.id, row.number, {"stars": stars})
        return Reference(row.name, row.number)


def reviews_of(session: Session, model_id: int) -> list[dict]:
    """Return a model's ratings, the newest first, at most 1,000 of them."""
    rows = session.scalars(select(Rating).where(Rating.model_id == model_id).order_by(Rating.rated_at.desc()).limit(MOST_LISTED))
    return [{"rater": row.rater, "version": row.version, "stars": row.stars, "review": row.review, "rated_at": row.rated_at} for row in rows]
