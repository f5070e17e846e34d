"""Has the model forgotten what it knew? Pairs of everyday sentences, ordered by how alike they are, before and after.

Written for this package and under its licence. Five levels: 5 the same thing in other words, 4 the same but for a
detail, 3 the same topic and another statement, 1 a word in common, 0 nothing in common. Far too few for a benchmark:
they show a model that has lost its general sense, not one that lost a little.
"""

from __future__ import annotations

from ingraft.training.tasks import SimilarityTask

_PAIRS: tuple[tuple[str, str, float], ...] = (
    ("The train was delayed by heavy snow.", "Because of the snowstorm, the train arrived late.", 5),
    ("She bought a second-hand bicycle.", "She purchased a used bike.", 5),
    ("The museum is closed on Mondays.", "You cannot visit the museum on a Monday.", 5),
    ("He forgot to water the plants.", "He did not remember that the plants needed water.", 5),
    ("The doctor told her to rest for a week.", "She was advised by her physician to take a week off.", 5),
    ("Nobody answered the phone.", "The phone rang and no one picked it up.", 5),
    ("The soup is too salty.", "There is too much salt in the soup.", 5),
    ("They postponed the meeting until Friday.", "The meeting was moved to Friday.", 5),
    ("A dog is running across the beach.", "A dog runs along the sand by the sea.", 5),
    ("The shop sells fresh bread every morning.", "Each morning you can buy fresh bread at the store.", 5),
    ("How can I change my password?", "What do I have to do to set a new password?", 5),
    ("The river flooded the fields.", "The fields were under water after the river rose.", 5),
    ("The train was delayed by heavy snow.", "The train was delayed by a strike.", 4),
    ("She bought a second-hand bicycle.", "She bought a new bicycle.", 4),
    ("The museum is closed on Mondays.", "The museum closes at six on Mondays.", 4),
    ("The doctor told her to rest for a week.", "The doctor told her to exercise every day.", 4),
    ("Two men are playing chess in the park.", "Two women are playing chess in a café.", 4),
    ("The price of oil rose by two percent.", "The price of oil fell by two percent.", 4),
    ("A cat is sleeping on the sofa.", "A cat is sitting under the sofa.", 4),
    ("The concert begins at eight o'clock.", "The concert begins half an hour later than planned.", 4),
    ("How can I change my password?", "How can I change my e-mail address?", 4),
    ("He repaired the roof before winter.", "He repaired the fence before winter.", 4),
    ("The children built a castle of sand.", "The children built a house of wood.", 4),
    ("The bridge was opened in 1932.", "The bridge was closed for repairs in 1987.", 4),
    ("The train was delayed by heavy snow.", "Tickets for the train can be bought online.", 3),
    ("The soup is too salty.", "The cook chopped onions and carrots.", 3),
    ("A dog is running across the beach.", "The veterinarian examined the puppy.", 3),
    ("They postponed the meeting until Friday.", "The committee wrote minutes of what was said.", 3),
    ("The price of oil rose by two percent.", "Investors sold their shares in energy companies.", 3),
    ("She bought a second-hand bicycle.", "Cyclists should wear a helmet in traffic.", 3),
    ("The concert begins at eight o'clock.", "The violinist practised the solo for months.", 3),
    ("The river flooded the fields.", "Farmers hope for a dry harvest.", 3),
    ("The doctor told her to rest for a week.", "The clinic has hired three more nurses.", 3),
    ("How can I change my password?", "The website was attacked by hackers.", 3),
    ("He repaired the roof before winter.", "Carpenters measure twice and cut once.", 3),
    ("The bridge was opened in 1932.", "Engineers inspect the tunnel every year.", 3),
    ("The train was delayed by heavy snow.", "He wants to train for a marathon.", 1),
    ("The bank raised its interest rates.", "We had a picnic on the bank of the river.", 1),
    ("The concert begins at eight o'clock.", "The clock on the wall has stopped.", 1),
    ("He forgot to water the plants.", "The power plant runs on gas.", 1),
    ("She plays the piano very well.", "The well in the village is dry.", 1),
    ("The cold has kept him in bed.", "The drink is served cold.", 1),
    ("Please turn on the light.", "This suitcase is very light.", 1),
    ("The match ended without a goal.", "He lit the candle with a match.", 1),
    ("The bat flew out of the cave.", "He swung the bat and missed the ball.", 1),
    ("Spring is the season of rain here.", "The watch has a broken spring.", 1),
    ("They sat on the bench in the park.", "You cannot park your car here.", 1),
    ("The letter arrived this morning.", "Z is the last letter of the alphabet.", 1),
    ("The soup is too salty.", "The parliament voted on the new law.", 0),
    ("A dog is running across the beach.", "The invoice has to be paid within thirty days.", 0),
    ("Two men are playing chess in the park.", "The volcano erupted without warning.", 0),
    ("How can I change my password?", "The bakery smells of cinnamon.", 0),
    ("The bridge was opened in 1932.", "My sister prefers tea to coffee.", 0),
    ("He repaired the roof before winter.", "Photosynthesis turns light into sugar.", 0),
    ("The museum is closed on Mondays.", "Add two eggs and stir until smooth.", 0),
    ("The price of oil rose by two percent.", "The baby laughed at the funny hat.", 0),
    ("Nobody answered the phone.", "Whales sing to each other over great distances.", 0),
    ("The children built a castle of sand.", "The court rejected the appeal.", 0),
    ("She plays the piano very well.", "Update the driver and restart the computer.", 0),
    ("The letter arrived this morning.", "Granite is harder than limestone.", 0),
)


def general_task() -> SimilarityTask:
    """The package's own set."""
    first, second, scores = zip(*_PAIRS, strict=True)
    return SimilarityTask(first, second, scores)
