"""What stands on receipts and forms: names with values, made anew for each sheet."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tunestudy.data.synth.sample import Language
from tunestudy.data.synth.topics import PEOPLE

SHOPS: dict[Language, str] = {
    "en": "Green Corner|Blue Door Cafe|River Foods|Happy Mart|Old Town Deli|Sunrise Bakery|North Market|Maple Kitchen",
    "ko": "행복마트|푸른카페|강변식당|햇살빵집|동네분식|하늘슈퍼|솔밭가게|나무부엌",
}
GOODS: dict[Language, str] = {
    "en": "Bread|Milk|Coffee|Tea|Eggs|Rice|Cheese|Soup|Juice|Butter|Noodles|Honey|Salad|Cookies|Water|Yogurt",
    "ko": "식빵|우유|커피|홍차|달걀|쌀|치즈|수프|주스|버터|국수|꿀|샐러드|쿠키|생수|요구르트",
}
FORMS: dict[Language, str] = {
    "en": "Application form|Membership card|Delivery note|Visitor pass|Booking form",
    "ko": "신청서|회원 카드|배송 전표|방문증|예약 확인서",
}
CITIES: dict[Language, str] = {
    "en": "Seoul|Busan|Paris|London|Oslo|Rome|Lima|Cairo|Delhi|Tokyo",
    "ko": "서울|부산|대전|광주|인천|대구|울산|수원|전주|제주",
}
JOBS: dict[Language, str] = {
    "en": "Nurse|Driver|Engineer|Teacher|Chef|Artist|Lawyer|Farmer|Editor|Pilot",
    "ko": "간호사|운전사|기술자|교사|요리사|화가|변호사|농부|편집자|조종사",
}
METHODS: dict[Language, str] = {
    "en": "Card|Cash|Transfer|Voucher|Mobile|Cheque",
    "ko": "카드|현금|이체|상품권|간편결제|수표",
}

Maker = Callable[[random.Random, Language], str]
"""A value of one sort."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a sheet. Values of one `sort` look alike."""

    name: str
    value: str
    sort: str
    language: Language
    is_price: bool = False
    closes: bool = False
    """A heavier line follows."""

    @property
    def is_amount(self) -> bool:
        return self.sort == "amount"

    def again(self, rng: random.Random) -> str:
        """Another value of the same sort."""
        return MAKERS[self.sort](rng, self.language)


def _one_of(words: dict[Language, str]) -> Maker:
    return lambda rng, language: rng.choice(words[language].split("|"))


def _date(rng: random.Random, language: Language) -> str:
    year, month, day = rng.randint(2001, 2029), rng.randint(1, 12), rng.randint(1, 28)
    return f"{year}년 {month}월 {day}일" if language == "ko" else f"{year}-{month:02d}-{day:02d}"


def _person(rng: random.Random, language: Language) -> str:
    return rng.choice(PEOPLE.split()).split("/")[language == "ko"]


MAKERS: dict[str, Maker] = {
    "date": _date,
    "person": _person,
    "city": _one_of(CITIES),
    "job": _one_of(JOBS),
    "method": _one_of(METHODS),
    "time": lambda rng, _: f"{rng.randint(8, 21):02d}:{rng.randint(0, 59):02d}",
    "phone": lambda rng, _: f"010-{rng.randint(1000, 9999)}-{rng.randint(1000, 9999)}",
    "number": lambda rng, _: f"{rng.choice('ABCDEFGHJKLMNPRSTUVWXYZ')}{rng.randint(1000, 9999)}",
    "room": lambda rng, _: str(rng.randint(101, 999)),
    "age": lambda rng, _: str(rng.randint(18, 79)),
}
"""Sort of value → how one is made."""

NAMES: dict[Language, dict[str, str]] = {
    "en": {
        "person": "Name",
        "date": "Date",
        "city": "City",
        "job": "Occupation",
        "time": "Time",
        "phone": "Phone number",
        "number": "Order number",
        "room": "Room number",
        "age": "Age",
        "method": "Payment method",
    },
    "ko": {
        "person": "이름",
        "date": "날짜",
        "city": "도시",
        "job": "직업",
        "time": "시간",
        "phone": "전화번호",
        "number": "주문 번호",
        "room": "방 번호",
        "age": "나이",
        "method": "결제 방법",
    },
}


def form(rng: random.Random, language: Language, count: int) -> tuple[str, list[Entry]]:
    """A title and up to ten named values, each name once."""
    sorts = rng.sample(list(MAKERS), min(count, len(MAKERS)))
    entries = [Entry(NAMES[language][sort], MAKERS[sort](rng, language), sort, language) for sort in sorts]
    return rng.choice(FORMS[language].split("|")), entries


def receipt(rng: random.Random, language: Language, count: int) -> tuple[str, list[Entry]]:
    """A shop, date and number, goods with prices, and their sum; `count` lines in all, at least one of them goods."""
    head = [Entry(NAMES[language][sort], MAKERS[sort](rng, language), sort, language) for sort in ("date", "number")]
    head = head[: max(0, count - 3)]
    names = rng.sample(GOODS[language].split("|"), min(16, max(1, count - len(head) - 1)))
    amounts = rng.sample(range(5, 150), len(names))
    prices = [
        Entry(name, _money(amount, language), "amount", language, True)
        for name, amount in zip(names, amounts, strict=True)
    ]
    total = Entry("합계" if language == "ko" else "Total", _money(sum(amounts), language), "amount", language)
    head = [*head[:-1], *(_closed(entry) for entry in head[-1:])]
    return rng.choice(SHOPS[language].split("|")), [*head, *prices[:-1], _closed(prices[-1]), total]


def _closed(entry: Entry) -> Entry:
    return Entry(entry.name, entry.value, entry.sort, entry.language, entry.is_price, closes=True)


def _money(amount: int, language: Language) -> str:
    """Hundreds of won, or tenths of a unit of account."""
    return f"{100 * amount:,}원" if language == "ko" else f"{amount / 10:.2f}"


def price_again(rng: random.Random, value: str, language: Language) -> str:
    """Another amount, about as large."""
    amount = int(value.removesuffix("원").replace(",", "")) // 100 if language == "ko" else round(10 * float(value))
    return _money(max(1, amount + rng.choice((-1, 1)) * rng.randint(1, max(8, amount // 3))), language)
