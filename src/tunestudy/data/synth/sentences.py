"""Plain sentences put together from parts, as material for reading: grammatical in both languages, about nothing."""

import random

from tunestudy.data.synth.sample import Language

WHO: dict[Language, str] = {
    "en": "The teacher|A farmer|My sister|The baker|Our guide|The pilot|A child|The doctor|The painter|His uncle|A "
    "sailor|"
    "The student|The mayor|A tourist|The old man|Her friend",
    "ko": "선생님은|농부는|누나는|제빵사는|안내원은|조종사는|아이는|의사는|화가는|삼촌은|선원은|학생은|시장은|"
    "여행자는|할아버지는|친구는",
}
DID: dict[Language, str] = {
    "en": "bought|found|carried|painted|cleaned|counted|sold|lost|moved|fixed|saw|hid|packed|sent|took|chose",
    "ko": "샀다|찾았다|옮겼다|그렸다|닦았다|세었다|팔았다|잃어버렸다|치웠다|고쳤다|보았다|숨겼다|포장했다|보냈다|"
    "가져갔다|골랐다",
}
COUNT: dict[Language, str] = {
    "en": "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty",
    "ko": "두|세|네|다섯|여섯|일곱|여덟|아홉|열|열두|스무|서른",
}
WHAT: dict[Language, str] = {
    "en": "red chairs|old maps|small boxes|green bottles|wooden boats|blue lamps|heavy books|silver coins|paper bags|"
    "round mirrors|new tools|long ropes|white plates|warm blankets|yellow flags|glass jars",
    "ko": "개의 빨간 의자를|장의 낡은 지도를|개의 작은 상자를|개의 초록색 병을|척의 나무 배를|개의 파란 등을|권의 "
    "두꺼운 책을|"
    "개의 은화를|장의 종이봉투를|개의 둥근 거울을|개의 새 도구를|개의 긴 밧줄을|개의 하얀 접시를|장의 따뜻한 담요를|"
    "개의 노란 깃발을|개의 유리병을",
}
WHERE: dict[Language, str] = {
    "en": "at the market|near the river|in the garden|behind the school|on the bridge|in the kitchen|by the station|"
    "under the roof|at the harbour|in the library|on the hill|beside the road",
    "ko": "시장에서|강가에서|정원에서|학교 뒤에서|다리 위에서|부엌에서|역 앞에서|지붕 아래에서|항구에서|도서관에서|"
    "언덕에서|길가에서",
}
WHEN: dict[Language, str] = {
    "en": "on Monday|last night|in the morning|before lunch|at noon|in early spring|after the rain|on Friday|at seven|"
    "last winter|this week|in August",
    "ko": "월요일에|어젯밤에|아침에|점심 전에|정오에|이른 봄에|비가 온 뒤에|금요일에|일곱 시에|지난겨울에|이번 주에|"
    "팔월에",
}


def sentence(rng: random.Random, language: Language) -> list[str]:
    """The words of one sentence, the last with its full stop."""
    who, did, count, what, where, when = (
        rng.choice(part[language].split("|")) for part in (WHO, DID, COUNT, WHAT, WHERE, WHEN)
    )
    if language == "ko":
        return f"{who} {when} {where} {count} {what} {did}.".split()
    return f"{who} {did} {count} {what} {where} {when}.".split()
