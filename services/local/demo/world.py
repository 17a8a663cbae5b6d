"""Contents of the demo world: brands, stores and venues. Names are invented and marked 示例 (sample); only the place is real."""

from msgspec import Struct

DISTRICT, CAMPAIGN = "dst_sanlitun", "cmp_autumn"
MIDDLE = (116.4551, 39.9365)
DISTRICT_METRES = 900
ZONE = "Asia/Shanghai"
SHIRT_BRAND, SHIRT_STORE, SHIRT_VARIANT = "brd_baiyu", "str_baiyu_taikoo", "var_baiyu_white_shirt_40"
SPENT_BRAND = "brd_shiguang"
"""The brand whose budget is one coupon, which the first pack spends."""


class DemoBrand(Struct, frozen=True):
    """An invented brand. `key` is the last part of its id; `goods` are kind, Chinese name, English name and price in yuan."""

    key: str
    zh: str
    en: str
    goods: tuple[tuple[str, str, str, int], ...]
    stores: tuple[str, ...]
    coupon: tuple[int, int]
    """The minimum spend and the value of the brand's coupon, in yuan."""
    budget: int = 20_000
    franchised: bool = False
    sizes: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Returns the id: `brd_…`, for the retailer `rtl_…`."""
        return f"rtl_{self.key}" if self.key == "jushi" else f"brd_{self.key}"


class DemoStore(Struct, frozen=True):
    """A store: its metres east and north of the middle, and its opening hours."""

    key: str
    zh: str
    en: str
    east: int
    north: int
    hours: str = "10:00-21:30"
    delivers: bool = True


SHIRT_SIZES = ("38", "39", "40", "41", "42")
SHOE_SIZES = ("37", "39", "41", "43")
BRANDS = (
    DemoBrand("baiyu", "白屿", "Baiyu", (("shirt", "白衬衫", "White shirt", 399), ("shirt", "蓝条纹衬衫", "Blue striped shirt", 429), ("trousers", "直筒西裤", "Straight trousers", 599)), ("taikoo", "workers", "dongzhimen"), (300, 60), sizes=SHIRT_SIZES),
    DemoBrand("xingchen", "星尘", "Stardust", (("sneakers", "星尘跑鞋", "Stardust runner", 699), ("sneakers", "星尘板鞋", "Stardust court shoe", 499)), ("taikoo", "gongti"), (400, 80), franchised=True, sizes=SHOE_SIZES),
    DemoBrand("muhe", "木禾", "Muhe", (("fragrance", "雪松香薰", "Cedar diffuser", 268), ("fragrance", "桂花蜡烛", "Osmanthus candle", 188)), ("north",), (200, 40)),
    DemoBrand("lantang", "澜塘", "Lantang", (("skincare", "山茶花面霜", "Camellia cream", 420), ("skincare", "清润洁面", "Gentle cleanser", 158)), ("taikoo", "nali"), (300, 50)),
    DemoBrand("qingye", "青野", "Qingye", (("outdoor", "防风外套", "Windbreaker", 899), ("outdoor", "徒步背包", "Hiking pack", 529)), ("north", "gongti"), (500, 100)),
    DemoBrand("zhiwei", "知味", "Zhiwei", (("tea", "正山小种", "Lapsang souchong", 168), ("tea", "龙井礼盒", "Longjing gift box", 368)), ("nali",), (150, 30)),
    DemoBrand("yunluo", "云络", "Yunluo", (("knitwear", "羊绒衫", "Cashmere sweater", 1280), ("knitwear", "羊毛围巾", "Wool scarf", 320)), ("taikoo",), (600, 120)),
    DemoBrand("hupo", "琥珀记", "Hupo", (("jewellery", "琥珀耳钉", "Amber studs", 560), ("jewellery", "银链", "Silver chain", 380)), ("north", "taikoo"), (300, 60)),
    DemoBrand("shiguang", "拾光", "Shiguang", (("eyewear", "圆框眼镜", "Round glasses", 460), ("eyewear", "墨镜", "Sunglasses", 520)), ("taikoo", "nali"), (300, 70), budget=1),
    DemoBrand("beidouli", "北斗里", "Beidouli", (("toys", "木质积木", "Wooden blocks", 199), ("toys", "星空投影灯", "Star projector", 259)), ("gongti",), (200, 40)),
    DemoBrand("nanqiao", "南桥", "Nanqiao", (("coffee", "云南咖啡豆", "Yunnan beans", 98), ("coffee", "挂耳礼盒", "Drip bag box", 138)), ("nali",), (80, 20)),
    DemoBrand("jushi", "聚市", "Jushi", (("grocery", "聚市环保袋", "Jushi tote", 39),), ("gongti", "dongzhimen"), (100, 20)),
)  # fmt: skip

PLACES = {
    "taikoo": DemoStore("taikoo", "太古里店", "Taikoo Li", 60, 120, "10:00-22:00"),
    "north": DemoStore("north", "太古里北区店", "Taikoo Li North", 40, 380, "10:00-22:00"),
    "nali": DemoStore("nali", "那里花园店", "Nali Patio", -120, 240),
    "workers": DemoStore("workers", "工人体育场店", "Workers' Stadium", -620, -380),
    "gongti": DemoStore("gongti", "工体北路店", "Gongti North Road", -420, -60),
    "dongzhimen": DemoStore("dongzhimen", "东直门店", "Dongzhimen", -1800, 600, "09:30-21:00"),
}
WAREHOUSE = DemoStore("warehouse", "通州仓", "Tongzhou warehouse", 17_000, -3_000, "", delivers=True)

VENUES = (
    ("ven_hotel", "HOTEL", "示例酒店·三里屯", "Demo Hotel Sanlitun", -200, 150),
    ("ven_cinema", "CINEMA", "示例影院", "Demo Cinema", 90, 60),
    ("ven_noodles", "RESTAURANT", "示例面馆", "Demo Noodles", -60, 200),
    ("ven_hotpot", "RESTAURANT", "示例火锅", "Demo Hotpot", 150, 300),
    ("ven_parking", "PARKING", "示例停车场", "Demo Parking", 20, -40),
)
"""The venues that are not stores: id, kind, names, metres east and north of the middle."""
