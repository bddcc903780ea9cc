"""Spoken commands that any machine can make, with what each wants: words that sound alike (for, four; write, right; their, there) are told by the others.

In lower case and without punctuation, numbers in words: so recognisers write.
"""
from __future__ import annotations

import functools
import random
import re

COMMANDS = 6000
SLOT = re.compile(r"{(\w+)}")
UNITS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
         "seventeen", "eighteen", "nineteen")
POLITE = ("", "", "", "", "please ", "could you please ", "can you ", "i want you to ")
"""What a command may begin with, if it is no question or remark."""
ASKED_OR_SAID = ("am", "how", "i", "is", "it", "we", "what", "when", "which", "will")
"""The first words of those."""
SLOTS = {
    "room": ("the kitchen", "the bedroom", "the bathroom", "the living room", "the hall", "the office", "the garden", "the garage", "the cellar"),
    "light": ("the light", "the lights", "the lamp", "all the lights", "the red light", "the reading lamp"),
    "colour": ("blue", "red", "green", "white", "yellow"),
    "few": UNITS[2:13],
    "many": (*UNITS[5:], "twenty", "twenty five", "thirty", "thirty five", "forty", "forty five", "fifty", "sixty", "ninety"),
    "hour": UNITS[1:13],
    "minute": ("fifteen", "twenty", "thirty", "forty", "forty five", "fifty", "fifty five"),
    "part": ("in the morning", "in the evening", "in the afternoon", "tonight", "tomorrow", "tomorrow morning"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    "person": ("my brother", "my sister", "my mother", "my father", "my son", "my daughter", "my aunt", "my neighbour", "doctor brown", "peter", "mary",
               "anna", "robert", "the bank", "the school", "the dentist"),
    "city": ("london", "paris", "berlin", "boston", "rome", "chicago", "vienna", "dublin", "new york", "the mountains", "the south"),
    "place": ("the airport", "the station", "the nearest bank", "the hotel", "the museum", "their house", "the right gate", "the main road", "the sea",
              "the next petrol station", "the city hall", "the theatre"),
    "food": ("flour", "meat", "bread", "eggs", "two pears", "four eggs", "milk", "tea", "rice", "butter", "eight apples", "some cheese", "red wine", "a steak",
             "sweet peas", "mussels", "a new pan", "salt", "two loaves of bread"),
    "music": ("some jazz", "the new song", "their new song", "that song again", "the blues", "some piano music", "my favourite band", "the radio",
              "the eighth symphony", "some soul", "the hit of the week", "a song for children", "something for the evening"),
    "news": ("the news", "the sports news", "the latest news", "the news from their country", "the headlines", "the morning news", "the world news"),
    "said": ("i will be late", "i am on my way", "we will meet at {hour}", "they are here", "i have read the letter", "we are right behind them",
             "the meeting is at {hour}", "i would like to see them", "the train is late by {many} minutes", "i know the way", "their car is here",
             "we can not come for dinner", "you were right", "the price is too high"),
    "event": ("a meeting with {person}", "the dinner with {person}", "a visit to the dentist", "the concert", "their wedding", "a walk with {person}",
              "the flight to {city}"),
    "deed": ("buy {food}", "call {person}", "write to {person}", "pay the bill", "feed the horse", "water the flowers", "meet {person}", "read the mail",
             "take the bread out", "wait for the mail"),
    "room_place": ("in {room}", "here", "over there", "at the stairs", "outside"),
    "weather": ("rain", "snow", "be windy", "be sunny", "freeze", "be warm"),
}  # fmt: skip
"""What may stand in a slot; some of it has slots of its own."""
TEMPLATES = {
    "lights": ("turn on {light} {room_place}", "turn off {light} {room_place}", "turn {light} off {room_place}", "make {light} {colour} {room_place}",
               "dim {light} {room_place} to {many} percent", "switch {light} on for {few} hours", "it is too dark in {room}", "i need some light in {room}"),
    "heating": ("turn the heating up by {few} degrees", "turn the heat down in {room}", "set {room} to {many} degrees", "make it warmer in {room}",
                "it is too cold in {room}", "lower the heat by {few} degrees {part}", "heat {room} to {many} degrees by {hour}"),
    "timer": ("set a timer for {many} minutes", "start a timer for {few} hours", "set the timer to {many} seconds", "count down from {many}",
              "tell me when {many} minutes are over", "how much time is left on the timer for the {food}", "stop the timer for {food}"),
    "alarm": ("wake me up at {hour} {minute}", "wake me at half past {hour} on {day}", "set an alarm for {hour} {part}", "wake us at a quarter to {hour}",
              "turn off the alarm on {day}", "i have to get up at {hour} {minute} on {day}"),
    "music": ("play {music}", "play {music} in {room}", "play {music} for {few} hours", "i want to hear {music}", "turn up {music}", "stop {music} in {room}",
              "play {music} again for {person}"),
    "weather": ("what is the weather in {city} {part}", "will it {weather} in {city} on {day}", "will i need a coat on {day}", "how cold is it in {city}",
                "will it {weather} here {part}", "is it going to {weather} for the next {few} days", "tell me the weather for {day}"),
    "message": ("write a message to {person} that {said}", "send {person} a message that {said}", "tell {person} that {said}", "write to {person} that {said}",
                "answer {person} that {said}", "let {person} know that {said}", "read me the last mail from {person}"),
    "call": ("call {person}", "call {person} {part}", "call {person} again at {hour}", "ring {person} on {day}", "call {person} back in {many} minutes",
             "get {person} on the line"),
    "reminder": ("remind me to {deed}", "remind me to {deed} at {hour}", "remind me {part} to {deed}", "do not let me forget to {deed} on {day}",
                 "remind {person} to {deed}"),
    "calendar": ("put {event} in my calendar for {day}", "move {event} to {day} at {hour}", "when is {event}", "what do i have to do on {day} {part}",
                 "cancel {event} on {day}", "am i free on {day} at {hour}", "add {event} on {day} at half past {hour}"),
    "shopping": ("add {food} to the shopping list", "put {food} on the list", "we need {food} and {food}", "buy {food} and {food} for {person}",
                 "take {food} off the shopping list", "order {food} and {food} for {day}", "is there {food} on the list"),
    "route": ("how do i get to {place}", "show me the way to {place}", "take me to {place} by {hour}", "how far is it to {place}",
              "which road is the right one to {place}", "find the way from {place} to {place}", "how long is the way to {city} by train"),
    "news": ("read me {news}", "what is new in {city}", "tell me {news} from {city}", "i want to hear {news} at {hour}", "play {news} in {room}",
             "give me {news} for the week"),
}  # fmt: skip
"""Of each intent."""


@functools.cache
def made_commands() -> tuple[dict[str, str], ...]:
    """Return 6,000 different commands with the columns text and intent, of which there are 13.

    >>> rows = made_commands()
    >>> len({row["text"] for row in rows}), len({row["intent"] for row in rows})
    (6000, 13)
    """
    draw, rows = random.Random(5), {}
    while len(rows) < COMMANDS:
        intent = draw.choice(tuple(TEMPLATES))
        template = draw.choice(TEMPLATES[intent])
        rows[_filled(draw, ("" if template.split()[0] in ASKED_OR_SAID else draw.choice(POLITE)) + template)] = intent
    return tuple({"text": text, "intent": intent} for text, intent in rows.items())


def _filled(draw, text):
    while SLOT.search(text):
        text = SLOT.sub(lambda slot: draw.choice(SLOTS[slot[1]]), text)
    return text
