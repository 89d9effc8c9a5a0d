"""Tables for generated ALFWorld rooms: what exists, what fits where, and what each kind of room holds.

The vocabulary and the fit table follow the real data set (see data/NOTICE), so that a generated game reads
like a real one. The shares and the counts of furniture are this project's own.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

TaskType = Literal[
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
]
RoomKind = Literal["kitchen", "livingroom", "bedroom", "bathroom"]
Split = Literal["train", "valid_seen", "valid_unseen"]
Size = Literal["small", "medium", "full"]

TASK_TYPES: Final[tuple[TaskType, ...]] = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
SPLITS: Final[tuple[Split, ...]] = ("train", "valid_seen", "valid_unseen")
SIZES: Final[tuple[Size, ...]] = ("small", "medium", "full")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


OBJECT_TYPES: Final[tuple[str, ...]] = _words(
    """
    AlarmClock Apple BaseballBat BasketBall Bathtub Blinds Book Boots Bowl Box Bread ButterKnife CD Candle
    CellPhone Chair Cloth CreditCard Cup Curtains DeskLamp DishSponge Egg FloorLamp Footstool Fork Glassbottle
    HandTowel HousePlant Kettle KeyChain Knife Ladle Laptop LaundryHamperLid Lettuce LightSwitch Mirror Mug
    Newspaper Painting Pan PaperTowel PaperTowelRoll Pen Pencil PepperShaker Pillow Plate Plunger Poster Pot
    Potato RemoteControl SaltShaker ScrubBrush ShowerDoor ShowerGlass Sink SoapBar SoapBottle Spatula Spoon
    SprayBottle Statue StoveKnob TeddyBear Television TennisRacket TissueBox ToiletPaper ToiletPaperRoll
    Tomato Towel Vase Watch WateringCan Window WineBottle
    """
)

RECEPTACLE_TYPES: Final[tuple[str, ...]] = _words(
    """
    ArmChair BathtubBasin Bed Cabinet Cart CoffeeMachine CoffeeTable CounterTop Desk DiningTable Drawer
    Dresser Fridge GarbageCan HandTowelHolder LaundryHamper Microwave Ottoman PaintingHanger Safe Shelf
    SideTable SinkBasin Sofa StoveBurner TVStand Toaster Toilet ToiletPaperHanger TowelHolder
    """
)

# Ids of these two have the furniture's name in front and their own at the end: Sink_bar_..._bar_SinkBasin.
BASIN_PREFIX: Final = MappingProxyType({"SinkBasin": "Sink", "BathtubBasin": "Bathtub"})

OPENABLE: Final = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
FIXED: Final = frozenset({"DeskLamp", "FloorLamp"})
TOGGLEABLE: Final = FIXED
CONTAINERS: Final = frozenset(_words("Bowl Box Cup Mug Pan Plate Pot"))
SLICEABLE: Final = frozenset(_words("Apple Bread Egg Lettuce Potato Tomato"))
HEATABLE: Final = frozenset(_words("Apple Bread Cup Egg Mug Plate Potato Tomato"))
COOLABLE: Final = frozenset(
    _words("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle")
)
CLEANABLE: Final = frozenset(
    _words(
        """
        Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate Pot
        Potato SoapBar Spatula Spoon Tomato
        """
    )
)

_HOLDS: Final = """
ArmChair Ottoman Sofa:
    BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl
BathtubBasin:
    Cloth DishSponge HandTowel SoapBar
Bed:
    BaseballBat BasketBall Book CellPhone Laptop Newspaper Pillow TennisRacket
Cabinet:
    Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper Pan
    PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper
    ToiletPaperRoll Vase WateringCan WineBottle
Cart:
    Candle Cloth DishSponge HandTowel Mug PaperTowel Plunger SoapBar SoapBottle SprayBottle Statue TissueBox
    ToiletPaper ToiletPaperRoll Vase
CoffeeMachine:
    Mug
CoffeeTable CounterTop DiningTable SideTable:
    AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth
    CreditCard Cup DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug
    Newspaper Pan PaperTowel Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar
    SoapBottle Spatula Spoon SprayBottle Statue TennisRacket TissueBox ToiletPaper ToiletPaperRoll Tomato
    Vase Watch WateringCan WineBottle
Desk:
    AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup Glassbottle KeyChain Laptop
    Mug Newspaper Pen Pencil Plate RemoteControl SoapBottle SprayBottle Statue TennisRacket TissueBox
    ToiletPaper ToiletPaperRoll Vase Watch WateringCan WineBottle
Drawer:
    Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife Ladle
    Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle
    TissueBox ToiletPaper ToiletPaperRoll Watch WateringCan
Dresser:
    AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup Glassbottle KeyChain Laptop
    Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket TissueBox ToiletPaper
    ToiletPaperRoll Vase Watch WateringCan WineBottle
Fridge:
    Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle
GarbageCan:
    Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper PaperTowel Pen Pencil Potato SoapBar
    SoapBottle SprayBottle TissueBox ToiletPaper ToiletPaperRoll Tomato WineBottle
HandTowelHolder:
    HandTowel
LaundryHamper:
    Cloth
Microwave:
    Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato
Safe:
    CD CellPhone CreditCard KeyChain Statue Vase Watch
Shelf:
    AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle HandTowel
    Kettle KeyChain Mug Newspaper PaperTowel Pen Pencil PepperShaker Plate Pot RemoteControl SaltShaker
    SoapBar SoapBottle SprayBottle Statue TissueBox ToiletPaper ToiletPaperRoll Vase Watch WateringCan
    WineBottle
SinkBasin:
    Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife Ladle Lettuce
    Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato
StoveBurner:
    Kettle Pan Pot
TVStand:
    TissueBox
Toilet:
    Candle Cloth DishSponge HandTowel Newspaper PaperTowel SoapBar SoapBottle SprayBottle TissueBox
    ToiletPaper ToiletPaperRoll
ToiletPaperHanger:
    ToiletPaper ToiletPaperRoll
TowelHolder:
    Towel
"""


def _read_holds(table: str) -> dict[str, frozenset[str]]:
    """Return, per receptacle type, the object types that it may hold."""
    holds: dict[str, frozenset[str]] = {}
    receptacles: list[str] = []
    for line in table.strip().splitlines():
        if line.endswith(":"):
            receptacles = line[:-1].split()
        else:
            holds |= {name: holds.get(name, frozenset()) | frozenset(line.split()) for name in receptacles}
    return holds


CAN_CONTAIN: Final = MappingProxyType(_read_holds(_HOLDS))

# How much likelier an object is to lie here than in a receptacle without a number: work surfaces are crowded.
CROWDED: Final = MappingProxyType(
    {
        "CounterTop": 4,
        "DiningTable": 4,
        "Desk": 3,
        "Bed": 3,
        "Sofa": 3,
        "CoffeeTable": 3,
        "Dresser": 2,
        "SideTable": 2,
    }
)
LAMP_STANDS: Final = frozenset({"Desk", "SideTable", "Dresser", "CoffeeTable", "TVStand", "Shelf"})

Counts = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Room:
    """One kind of room.

    `furniture` gives, per size and receptacle type, the fewest and the most of it; `objects` are the object
    types found here, `lamps` the lamp types; scene numbers start at `first_scene`.
    """

    kind: RoomKind
    first_scene: int
    furniture: MappingProxyType[Size, MappingProxyType[str, Counts]]
    objects: tuple[str, ...]
    lamps: tuple[str, ...]


def _furniture(table: str) -> MappingProxyType[Size, MappingProxyType[str, Counts]]:
    """Read rows of `Type small medium full`, each count written `n` or `fewest-most`."""
    sizes: dict[Size, dict[str, Counts]] = {size: {} for size in SIZES}
    for line in table.strip().splitlines():
        receptacle, *cells = line.split()
        for size, cell in zip(SIZES, cells, strict=True):
            fewest, _, most = cell.partition("-")
            sizes[size][receptacle] = (int(fewest), int(most or fewest))
    return MappingProxyType({size: MappingProxyType(counts) for size, counts in sizes.items()})


KITCHEN: Final = Room(
    kind="kitchen",
    first_scene=1,
    furniture=_furniture(
        """
        Cabinet        1-2  3-5  9-16
        CoffeeMachine  0    1    1
        CounterTop     1-2  1-2  2-3
        DiningTable    0    0-1  0-1
        Drawer         0-1  1-3  4-9
        Fridge         1    1    1
        GarbageCan     1    1    1
        Microwave      1    1    1
        Shelf          0    0    0-3
        SinkBasin      1    1    1
        StoveBurner    0    2    4
        Toaster        0    0    1
        """
    ),
    objects=_words(
        """
        Apple Bowl Bread ButterKnife Cup DishSponge Egg Fork Glassbottle Kettle Knife Ladle Lettuce Mug Pan
        PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula Spoon Statue Tomato Vase WineBottle
        """
    ),
    lamps=(),
)

LIVINGROOM: Final = Room(
    kind="livingroom",
    first_scene=201,
    furniture=_furniture(
        """
        ArmChair       1    1-2  1-3
        Cabinet        0-1  3-4  3-8
        CoffeeTable    1    1    1-2
        DiningTable    0    0    0-1
        Drawer         1-2  2-3  2-7
        Dresser        0    0    0-1
        GarbageCan     1    1    1
        Ottoman        0    0-1  0-1
        Safe           0    0    0-1
        Shelf          0-1  1-2  1-5
        SideTable      1    1-2  1-3
        Sofa           1    1    1-2
        TVStand        0    1    1
        """
    ),
    objects=_words(
        """
        BasketBall Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pencil Pillow Plate
        RemoteControl Statue TissueBox Vase Watch WateringCan
        """
    ),
    lamps=("DeskLamp", "FloorLamp"),
)

BEDROOM: Final = Room(
    kind="bedroom",
    first_scene=301,
    furniture=_furniture(
        """
        ArmChair       0    0    0-1
        Bed            1    1    1
        Cabinet        0    0    0-4
        Desk           1    1    1-2
        Drawer         1-2  5-6  5-11
        Dresser        0    1    1
        GarbageCan     1    1    1
        LaundryHamper  0    0-1  0-1
        Safe           0-1  0-1  0-1
        Shelf          1-2  2-4  2-6
        SideTable      1    1-2  1-2
        """
    ),
    objects=_words(
        """
        AlarmClock BaseballBat BasketBall Book Bowl Box CD CellPhone Cloth CreditCard KeyChain Laptop Mug Pen
        Pencil Pillow Statue TennisRacket TissueBox Vase Watch
        """
    ),
    lamps=("DeskLamp",),
)

BATHROOM: Final = Room(
    kind="bathroom",
    first_scene=401,
    furniture=_furniture(
        """
        BathtubBasin       0    0-1  0-1
        Cabinet            1-2  3-5  2-8
        CounterTop         1    1    1-2
        Drawer             0-1  1-2  1-5
        GarbageCan         1    1    1
        HandTowelHolder    0-1  1-2  1-2
        Shelf              0    1    1-3
        SinkBasin          1    1-2  1-2
        Toilet             1    1    1
        ToiletPaperHanger  0    1    1
        TowelHolder        1    1    1-2
        """
    ),
    objects=_words(
        """
        Candle Cloth DishSponge HandTowel Plunger SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Towel
        """
    ),
    lamps=(),
)

ROOMS: Final[MappingProxyType[RoomKind, Room]] = MappingProxyType(
    {room.kind: room for room in (KITCHEN, LIVINGROOM, BEDROOM, BATHROOM)}
)

TASK_ROOMS: Final[MappingProxyType[TaskType, tuple[RoomKind, ...]]] = MappingProxyType(
    {
        "pick_and_place_simple": ("kitchen", "livingroom", "bedroom", "bathroom"),
        "look_at_obj_in_light": ("livingroom", "bedroom"),
        "pick_clean_then_place_in_recep": ("kitchen", "bathroom"),
        "pick_heat_then_place_in_recep": ("kitchen",),
        "pick_cool_then_place_in_recep": ("kitchen",),
        "pick_two_obj_and_place": ("kitchen", "livingroom", "bedroom", "bathroom"),
    }
)

# Objects in a room of each size; a full kitchen holds more than the other full rooms.
OBJECT_COUNTS: Final[MappingProxyType[Size, Counts]] = MappingProxyType(
    {"small": (8, 14), "medium": (16, 24), "full": (22, 34)}
)
FULL_KITCHEN_OBJECTS: Final[Counts] = (34, 50)
MOST_OF_A_KIND: Final = 3

_SCENES_PER_ROOM: Final = 30
_UNSEEN_SCENES: Final = 6


def scene_numbers(room: RoomKind, split: Split) -> range:
    """Return the scene numbers of `room` that `split` draws from; the unseen ones occur in no other split."""
    first = ROOMS[room].first_scene
    if split == "valid_unseen":
        return range(first, first + _UNSEEN_SCENES)
    return range(first + _UNSEEN_SCENES, first + _SCENES_PER_ROOM)
