"""Dates in digits, in English and in German words: made by num2words, so that each can be checked."""
from __future__ import annotations

import datetime
import functools
import random

from tfgpt.recipe import RecipeError

DATES = 12_000
"""How many there are, none twice."""
FIRST, LAST = datetime.date(1000, 1, 1), datetime.date(2099, 12, 31)
MONTHS = {"en": ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"),
          "de": ("Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember")}


@functools.cache
def date_words() -> tuple[dict[str, str], ...]:
    """Return dates from the year 1000 to 2099 in digits (ISO 8601), English and German words, drawn from a seed.

    Raises:
        RecipeError: num2words is not installed.

    >>> len({row["digits"] for row in date_words()})
    12000
    >>> next(row for row in date_words() if row["digits"].endswith("-03-17"))["en"].split(",")[0]
    'the seventeenth of March'
    """
    days = random.Random(11).sample(range(FIRST.toordinal(), LAST.toordinal() + 1), DATES)
    return tuple(date_in_words(datetime.date.fromordinal(day)) for day in days)


def date_in_words(date: datetime.date) -> dict[str, str]:
    """Return a date in `digits`, `en` and `de`.

    Raises:
        RecipeError: num2words is not installed.

    >>> date_in_words(datetime.date(1984, 5, 21))["de"]
    'der einundzwanzigste Mai neunzehnhundertvierundachtzig'
    """
    try:
        from num2words import num2words
    except ImportError as error:
        raise RecipeError("data.path: numbers-and-dates needs the package num2words, which is not installed; pip install 'tfgpt[tasks]'") from error
    day, year = ({language: num2words(number, to=kind, lang=language) for language in MONTHS} for number, kind in ((date.day, "ordinal"), (date.year, "year")))
    return {"digits": date.isoformat(), "en": f"the {day['en']} of {MONTHS['en'][date.month - 1]}, {year['en']}",
            "de": f"der {day['de']} {MONTHS['de'][date.month - 1]} {year['de']}"}
