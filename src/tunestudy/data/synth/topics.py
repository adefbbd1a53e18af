"""What charts and tables are about: titles, labels and nouns in both languages, item by item the same."""

from dataclasses import dataclass

from tunestudy.data.synth.sample import Language

Pair = tuple[str, str]
"""English, Korean."""


def said(pair: Pair, language: Language) -> str:
    """The text in that language."""
    return pair[language == "ko"]


@dataclass(frozen=True)
class Topic:
    """A chart's subject; `labels` are written `English/한국어`."""

    title: Pair
    noun: Pair
    """What one label is: `fruit`."""
    labels: str
    in_order: bool = False
    """Labels follow each other, as months do."""
    korean_which: str = "무엇입니까"
    """How Korean asks for one of them."""

    def names(self, language: Language) -> list[str]:
        """The labels in one language."""
        return [label.split("/")[language == "ko"] for label in self.labels.split()]


TOPICS = (
    Topic(
        ("Fruit sold", "과일 판매량"),
        ("fruit", "과일"),
        "Apple/사과 Pear/배 Grape/포도 Peach/복숭아 Plum/자두 Melon/멜론 Lemon/레몬 Mango/망고 Cherry/체리 Fig/무화과 "
        "Kiwi/키위 Lime/라임",
    ),
    Topic(
        ("Rainfall (mm)", "강수량 (mm)"),
        ("city", "도시"),
        "Seoul/서울 Busan/부산 Daegu/대구 Incheon/인천 Jeju/제주 Ulsan/울산 Suwon/수원 Pohang/포항 Mokpo/목포 "
        "Yeosu/여수 "
        "Jeonju/전주 Sokcho/속초",
        korean_which="어디입니까",
    ),
    Topic(
        ("Club members", "동아리 회원 수"),
        ("club", "동아리"),
        "Chess/체스 Dance/댄스 Drama/연극 Art/미술 Music/음악 Soccer/축구 Robot/로봇 Photo/사진 Baking/제빵 "
        "Debate/토론 "
        "Hiking/등산 Tennis/테니스",
    ),
    Topic(
        ("Visitors", "방문객 수"),
        ("place", "장소"),
        "Museum/박물관 Library/도서관 Park/공원 Zoo/동물원 Pool/수영장 Market/시장 Palace/궁궐 Tower/전망대 "
        "Beach/해변 "
        "Temple/사찰 Theater/극장 Gallery/미술관",
        korean_which="어디입니까",
    ),
    Topic(
        ("Monthly orders", "월별 주문량"),
        ("month", "달"),
        "Jan/1월 Feb/2월 Mar/3월 Apr/4월 May/5월 Jun/6월 Jul/7월 Aug/8월 Sep/9월 Oct/10월 Nov/11월 Dec/12월",
        in_order=True,
        korean_which="언제입니까",
    ),
    Topic(
        ("Books borrowed", "도서 대출 수"),
        ("weekday", "요일"),
        "Mon/월요일 Tue/화요일 Wed/수요일 Thu/목요일 Fri/금요일 Sat/토요일 Sun/일요일",
        in_order=True,
        korean_which="언제입니까",
    ),
)

SHORT: dict[Language, str] = {"en": "ABCDEFGHIJKL", "ko": "가나다라마바사아자차카타"}
SHORT_AWAY_FROM_CHOICES = "PQRSTUVWXYZK"
"""Labels that are not the letters of options."""


@dataclass(frozen=True)
class TableTopic:
    """A table's subject: rows of one noun, columns of whole numbers."""

    title: Pair
    noun: Pair
    plural: str
    counter: str
    """The Korean counting word, as after a number."""
    korean_which: str
    """How Korean asks for one of them."""
    rows: str
    columns: tuple[tuple[Pair, int, int], ...]
    """Column head, smallest and largest number."""

    def names(self, language: Language) -> list[str]:
        """The row heads in one language."""
        return [row.split("/")[language == "ko"] for row in self.rows.split()]


PEOPLE = (
    "Mina/민아 Jun/준 Sora/소라 Hana/하나 Leo/레오 Yuna/유나 Max/맥스 Ella/엘라 Noah/노아 Emma/엠마 Ian/이안 Ara/아라 "
    "Bora/보라 Dan/단 Seth/세스 Gina/지나 Hugo/휴고 Iris/아이리스 Kai/카이 Lia/리아 Nari/나리 Owen/오언"
)
TABLE_TOPICS = (
    TableTopic(
        ("Test scores", "시험 점수"),
        ("student", "학생"),
        "students",
        "명",
        "누구입니까",
        PEOPLE,
        (
            (("Math", "수학"), 31, 99),
            (("Music", "음악"), 31, 99),
            (("Art", "미술"), 31, 99),
            (("English", "영어"), 31, 99),
        ),
    ),
    TableTopic(
        ("Medals won", "획득한 메달"),
        ("team", "팀"),
        "teams",
        "팀",
        "어디입니까",
        "Lions/사자 Bears/곰 Eagles/독수리 Sharks/상어 Wolves/늑대 Tigers/호랑이 Foxes/여우 Hawks/매 Bulls/황소 "
        "Crows/까마귀 "
        "Deer/사슴 Whales/고래 Owls/올빼미 Cats/고양이 Dogs/강아지 Frogs/개구리 Bees/꿀벌 Goats/염소 Swans/백조 "
        "Rams/산양 "
        "Seals/물개 Crabs/게",
        ((("Gold", "금메달"), 0, 45), (("Silver", "은메달"), 0, 45), (("Bronze", "동메달"), 0, 45)),
    ),
    TableTopic(
        ("Shop stock", "매장 재고"),
        ("product", "상품"),
        "products",
        "개",
        "무엇입니까",
        "Pen/펜 Lamp/램프 Desk/책상 Chair/의자 Clock/시계 Mug/머그컵 Bag/가방 Ball/공 Rug/러그 Fan/선풍기 Sofa/소파 "
        "Shelf/선반 "
        "Vase/꽃병 Towel/수건 Plate/접시 Spoon/숟가락 Brush/붓 Tent/텐트 Rope/밧줄 Soap/비누 Glue/풀 Tape/테이프",
        (
            (("Price", "가격"), 11, 99),
            (("Stock", "재고"), 3, 80),
            (("Sold", "판매량"), 3, 95),
            (("Orders", "주문량"), 3, 95),
        ),
    ),
)
