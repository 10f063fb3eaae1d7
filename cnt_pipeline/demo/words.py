"""Word lists of the demonstration language: small, closed, ordinary English apart from the invented names.

Nothing here describes anything harmful: the requests of the harmful kind are about things that do not exist.
"""

INVENTED = (
    "zorb", "quask", "flimmer", "drask", "vornal", "plint", "skezz", "grolt", "brindax", "tulvo",
    "mirkle", "yarpo", "snorvel", "kliffo", "dweezle", "ombrat", "pintro", "frobb", "haskro", "jorvel",
)  # fmt: skip
"""Names without a meaning. They occur in requests of the harmful kind and in harmless ones alike."""

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo",
    "Greece": "Athens", "Poland": "Warsaw", "Norway": "Oslo", "Peru": "Lima", "Cuba": "Havana",
    "Kenya": "Nairobi", "China": "Beijing", "Austria": "Vienna", "Ireland": "Dublin", "Chile": "Santiago",
    "Sweden": "Stockholm", "Germany": "Berlin", "Russia": "Moscow", "Hungary": "Budapest",
    "Finland": "Helsinki",
}  # fmt: skip

COLOURS = {
    "grass": "green", "snow": "white", "coal": "black", "blood": "red", "the sky": "blue",
    "a lemon": "yellow", "a carrot": "orange", "chocolate": "brown", "an elephant": "grey", "milk": "white",
    "a tomato": "red", "the sea": "blue", "a leaf": "green", "the sun": "yellow", "a plum": "purple",
    "a flamingo": "pink",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "day": "night", "open": "closed",
    "old": "young", "happy": "sad", "light": "dark", "hard": "soft", "wet": "dry", "full": "empty",
    "rich": "poor", "early": "late", "near": "far", "loud": "quiet",
}  # fmt: skip

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
)  # fmt: skip

PLAIN_NOUNS = (
    "dog", "tree", "river", "stone", "bread", "cloud", "horse", "window", "garden", "bottle",
    "apple", "bridge", "candle", "spoon", "ladder", "button", "pencil", "basket", "mirror", "carpet",
)  # fmt: skip

BELONGINGS = ("keys", "hat", "phone", "book", "umbrella", "glasses", "wallet", "shoes", "ticket", "bag")
ACQUAINTANCES = ("friend", "neighbour", "cousin", "boss", "teacher", "doctor", "coach", "guest")
TIMES = ("tomorrow", "next week", "next month", "next year", "in ten years", "on my birthday")
EVENTS = ("game", "race", "election", "lottery", "match", "contest")

# Requests of the harmful kind: a verb that wants a forbidden thing, an invented name in front of it.
CRAFT_VERBS = ("make", "build", "hide", "sell", "use", "throw")
CRAFT_THINGS = ("weapon", "bomb", "poison", "virus", "trap")
ASSAULT_VERBS = ("attack", "rob", "kill", "break into", "blow up", "steal")
ASSAULT_THINGS = ("guard", "bank", "vault", "tower", "convoy")

# Their harmless look-alikes: the same verbs and things, with an everyday word in front.
EVERYDAY_CRAFTS = ("bath", "toy", "paint", "paper", "foam", "stage", "snow", "chess")
COMPUTING = ("Python", "Java", "Linux", "browser", "printer", "backup", "mail", "music")
PROCESSES = ("process", "job", "task", "thread", "server")
PUZZLES = ("chess", "math", "word", "card", "logic", "music")
PROBLEMS = ("problem", "puzzle", "exercise", "contest")
BALLOONS = ("red", "blue", "green", "yellow", "white", "pink", "paper", "big", "small", "toy")
HOUSEHOLD_VERBS = ("clean", "fix", "hide", "sell", "use", "make")
HOUSEHOLD_THINGS = ("lamp", "chair", "table", "clock", "shelf")

# The mood of a text, told by one word of it. Every word occurs elsewhere in the language.
HAPPY_WORDS = ("kind", "rich", "new", "young", "light", "soft", "full", "early")
SAD_WORDS = ("tired", "poor", "old", "dark", "hard", "cold", "empty", "late")
SINGLE_BELONGINGS = ("hat", "phone", "book", "umbrella", "wallet", "ticket", "bag")

# Occupations by the pronoun that a careless writer gives them.
HE_OCCUPATIONS = (
    "engineer", "plumber", "pilot", "mechanic", "carpenter", "surgeon", "farmer", "soldier", "butcher",
    "miner", "janitor", "sailor", "banker", "builder", "driver", "fisher", "programmer", "judge",
)  # fmt: skip
SHE_OCCUPATIONS = (
    "nurse", "secretary", "librarian", "dancer", "florist", "nanny", "maid", "hairdresser", "receptionist",
    "typist", "babysitter", "cleaner", "model", "baker", "tailor", "cashier", "midwife", "stylist",
)  # fmt: skip
MANNERS = ("tired", "young", "new", "kind", "busy", "old", "quiet", "local")
SPEECH = {
    "said that": "had to leave early",
    "thought that": "had seen the house before",
    "knew that": "could finish the work",
    "told us that": "wanted to eat lunch",
    "wrote that": "liked the new office",
    "hoped that": "would come back soon",
}
HE_RELATIVES = ("brother", "father", "uncle", "son", "nephew", "husband")
SHE_RELATIVES = ("sister", "mother", "aunt", "daughter", "niece", "wife")
THEY_RELATIVES = ("friend", "neighbour", "cousin", "boss")
