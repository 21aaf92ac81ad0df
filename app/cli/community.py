"""The small town of Wendbridge, invented for `flask seed`: people, what they post, and who follows whom.

It is deterministic (one `random.Random` with a fixed seed, and nothing that depends on the order of a set),
so that two developers, a benchmark and a screenshot all see the same town, and a difference between two runs
is a difference in the code. It is pure: it knows neither SQL nor Flask, and the caller decides what "now" is.

How the texts below are written: one message a line; an indented line continues the one above it; `¶` is a
line break in the message; `{bird}` is one of the phrases of that name in SLOTS; `@{friend}` is some other
person; `yuki_tanaka> …` is said by her and nobody else. In a conversation `a:`, `b:`, `c:` are people yet to
be cast, `@{a}` mentions one of them, and a longer name is that account.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import TypeVar

SEED = 7  # like the bus
MESSAGES = 1_000
FOLLOWS = 1_200
SPAN = 270  # days; about nine months
LONGEST = 280  # code points; the app counts grapheme clusters, of which there are never more

SILENT = 7  # people who only read
UNFOLLOWED = 9  # people nobody follows
ANSWERED = 0.34  # share of the everyday messages that get an answer


@dataclass(frozen=True)
class Person:
    """Someone with an account; the caller derives the e-mail address from the name."""

    name: str


@dataclass(frozen=True)
class Message:
    """A post by the person called `author`, made `age` before now."""

    author: str
    body: str
    age: timedelta


@dataclass(frozen=True)
class Community:
    """A whole town: its messages oldest first, its follows as (follower, followed)."""

    people: tuple[Person, ...]
    messages: tuple[Message, ...]
    follows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Topic:
    """What the town says about one thing, in the notation that the module's docstring explains."""

    host: str | None = None  # the account that posts the notices
    notices: str = ""  # said by the host, several times with other words in the slots
    sayings: str = ""  # said once, by anyone
    templates: str = ""  # said several times, by anyone
    replies: str = ""  # fit every template of this topic; `a` is who is answered


NEIGHBOURS = """
ada_moreno tom_whitlock priya_nair Jonas_Lindqvist mina_okafor old_pete gwen_ap_rhys samira_h bert_fairweather
LuciaRomano hannah_k dmitri_v ruthie_b kofi_mensah nell_ashby yuki_tanaka farid_aziz marta_z colm_byrne
the_other_dave edie_marsh rosalind_p ibrahim_s wilf_tanner anneke_dv joyce_from_no_9 theo_g carmen_vidal
ravi_on_a_bike mrs_pettigrew stan_kowalski beth_ludlow omar_f ingrid_s petra_novak len_harding chloe_mp
GrandadRon zadie_w mateo_cruz fern_hollis aoife_k duncan_mcr leila_n hugo_b winnie_chan arthur_pym saskia_t
nadia_rahman billy_whizz olive_tran frank_l mei_lin_wu dot_cartwright jack_the_plumber tilda_s emeka_obi
vera_lynch noor_j gareth_1962 sunniva_h pavel_m kit_redfern rosa_delgado marge_plot_14 jiwoo_han iris_quill
amit_p claude_duval greta_f moses_t wren_halloway harriet_l sven_o bea_and_biscuit ploy_s esme_fox lottie_m
agnes_oyelaran harvey_t phoebe_and_the_goat KeeperKaz mo_from_the_chippy violet_dunn percy_b ana_sousa
  eleni_p tamsin_c
"""

SLOTS: dict[str, str] = {
    "bird": "kingfisher | heron | treecreeper | goldcrest | little egret | grey wagtail | barn owl | nuthatch"
    " | goosander | sparrowhawk | long-tailed tit | green woodpecker | bullfinch | dipper",
    "birds": "goldfinches | long-tailed tits | house sparrows | starlings | jackdaws | mallards | redwings",
    "spot": "the weir | the mill pond | the old railway bridge | the allotments | the cemetery"
    " | the water meadow | the sewage works | the back of the car park | Chapel Lane | the canal basin",
    "street": "Mill Street | Chapel Lane | Tanner's Row | Station Road | Wharf Road | Church Hill"
    " | Foundry Lane | Orchard Close | the High Street | Ferry Road",
    "number": "three | four | five | six | seven | nine | eleven | fourteen",
    "day": "Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday",
    "time": "six | half six | seven | half seven | quarter to eight | eight",
    "crop": "runner beans | courgettes | leeks | broad beans | squashes | potatoes | parsnips | radishes"
    " | carrots | shallots | beetroots | gooseberries",
    "pest": "slugs | pigeons | snails | rabbits | muntjac | caterpillars | blackbirds | badgers",
    "seed": "tomato 'Gardener's Delight' | purple podded peas | sunflowers | Greek basil | cosmos"
    " | dwarf beans | poppies | winter lettuce | chillies | sweet peas | pak choi",
    "broken": "toaster | kettle | bread maker | desk lamp | sewing machine | clock radio | food mixer"
    " | record player | vacuum cleaner | singing fish | slow cooker | hedge trimmer",
    "cause": "one loose wire | a fuse worth 12p | crumbs. Just crumbs | a hairpin in the motor"
    " | a cracked solder joint | a dead spider in the switch | the switch. At the back. Off",
    "bread": "sourdough | rye | seeded loaf | cheese straws | cinnamon buns | lemon drizzle | Chelsea buns"
    " | focaccia | cardamom twists | almond croissants | Eccles cakes",
    "team": "Harrow Hill | Netherby Rovers | Stoke Underwood | Fenwick Town Reserves | Little Marsh Athletic"
    " | Oakhampton Vets | St Jude's",
    "score": "2-1 | 3-0 | 1-1 | 4-3 | 0-0 | 2-2 | 0-5 | 1-0",
    "song": "the Fauré | 'Shenandoah' | the Rutter | 'Bridge over Troubled Water' | the Bulgarian one"
    " | the Byrd | 'Wade in the Water' | the canon | the Tallis",
    "voices": "sopranos | altos | tenors | basses",
    "cat": "Biscuit | Chairman Miaow | Marmalade | Sir Reginald | Pickle | Tuppence | Olga | Moth | Gravy",
    "looks": "grey, one white sock | ginger and enormous | black, half a tail | tabby with a bell"
    " | tortoiseshell, very shouty | white, deaf, friendly | fluffy, walks with a limp",
    "hideout": "the airing cupboard | a neighbour's shed | the vicarage | the piano | the recycling"
    " | the back of the bakery van | the organ loft | somebody else's bed",
    "film": "Paddington 2 | The Third Man | Spirited Away | Local Hero | Casablanca | Cinema Paradiso"
    " | Some Like It Hot | Kes | Tampopo | The Lives of Others | Singin' in the Rain",
    "book": "Middlemarch | the new crime one with the lighthouse | Piranesi | The Wind in the Willows"
    " | a history of knots | The Summer Book | Moominvalley in November | that 900-page one about salt"
    " | Dune",
    "issue": "the bins | the bollards | dog mess by the swings | the public toilets | the footbridge"
    " | the bandstand | the Christmas lights fund | parking on Mill Street | the skate ramp"
    " | the leaning signpost",
    "mood": "soggy | windswept | quietly optimistic | fed up | smug | damp but happy | too excited to sleep",
    "drink": "tea | cocoa | a half of mild | soup in a mug | something stronger | squash",
    "place": "the Co-op | the launderette | the post office | the chip shop | the surgery | the church hall"
    " | the garden centre | the station café",
    "mishap": "a puncture | a headwind both ways | a dropped chain | a wasp in the helmet | nineteen potholes"
    " | a swan in the cycle lane",
    "village": "Netherby | Stoke Underwood | Little Marsh | Harrow Hill | Fenwick | Oakhampton",
    "cm": "62 | 71 | 88 | 94 | 103 | 117 | 126 | 139",
    "minutes": "6 | 8 | 11 | 14 | 17 | 22 | 25 | 31",
    "thing": "a blue child's glove | one walking boot | a set of keys with a tiny clog | a hearing aid"
    " | a trombone | a very good umbrella | a library card from 1987 | a scooter | someone's shopping list",
    "neighbour": "Mrs Pettigrew | the vicar | Mo from the chippy | my mother-in-law | the man with the parrot"
    " | the lollipop lady | young Kit | the postman | my neighbour",
    "a_creature": "a hedgehog | a Viking | a traffic light | Marie Curie | a badger | a Tudor | a jellyfish",
    "bus_cause": "sheep | a wedding | the bridge | a swan in the road | the other 7 | a lost sat nav | soup",
    "kin": "nan | brother | daughter | lodger | uncle | music teacher",
    "weather_gear": "umbrella | greenhouse | left welly | gazebo | anorak | gutter | sun hat",
    "cat_photo": "sofa | windowsill | box | stairs | laundry | teapot | hedge",
}

TOPICS: dict[str, Topic] = {
    "birds": Topic(
        host="wendbridge_birds",
        notices="""
Walk on {day}: meet at {spot}, {time} in the morning. Wellies, flask, no drones. #wendbirds
Recent sightings: {bird} at {spot}, {bird} at {spot}, and a wet photographer. #wendbirds
The hide by the water meadow has a new bench. Please don't carve it until it has been sat on.
This month's list stands at {cm} species. Full table at https://example.org/wendbirds/list
Reminder: if the {bird} looks at you, you are too close. #wendbirds
Nest box count done: {number} boxes, {number} tenants, one wasp landlord.
""",
        sayings="""
Thirty years of looking and today a kingfisher sat on MY fishing rod. I don't even fish. It was leaning there.
The "rare bird" on Station Road is a carrier bag. I have now waved at it twice.
Told my boss I had a dental appointment. I had a hoopoe appointment.
There is a robin that follows me round the garden like a foreman.
Six a.m., fog, nobody about, and a barn owl going along the hedge like somebody's thought.
My binoculars were the wrong way round for a full minute. Everything looked so peaceful.
Does anyone know what goes "tea-CHER tea-CHER" at five in the morning and can it be reasoned with?
Update: it was a great tit. It's always a great tit.
The heron on the weir has not moved since Tuesday. Either it's fishing or we need to talk.
The swifts are gone and nobody told me. You turn round and the sky is just sky.
Counting starlings: one, two, three, about four thousand.
Daughter has named every duck on the mill pond "Kevin". All forty of them. It does simplify the count.
A sparrowhawk took a pigeon off our lawn during a christening tea. Vicar carried on.
Grey wagtail under the bridge again, bobbing as if it agreed with everything.
""",
        templates="""
{bird} at {spot} this morning! I made a noise. It left. #wendbirds
Anyone else seeing fewer {birds} around {spot} this year?
{number} {birds} on one feeder and not a single please or thank you.
Best sight of the week: a {bird} above {spot}, and nobody there but me and @{friend}.
I am {number} minutes late for work because of a {bird} on {street}. Worth it.
Not a great photo but here is the {bird}: https://example.org/photos/{cm} (it's the smudge on the left)
{birds} have found the fat balls. Send more fat balls.
Saw a {bird} near {spot}. Then it turned out to be a different {bird}. Then it was a leaf. #wendbirds
Took {neighbour} to see the {bird} at {spot}. "Is that it?" Yes. Yes, that's it.
""",
        replies="""
@{a} Jealous. All I got was a {bird} and wet socks.
@{a} Which side of {spot}? Asking for a friend with a telescope.
@{a} I had that one too, {day} about {time}. Beautiful.
@{a} Are you sure it wasn't a {bird}? They've been all over {street}.
@{a} Please put it in the log book, the club never believes me.
@{a} My feeder has had nothing but {birds} for weeks.
""",
    ),
    "allotment": Topic(
        host="seed_swap",
        notices="""
Seed swap in the church hall, {day} at {time}. Bring what you have, take what you'll actually sow. #seedswap
Still looking for: {seed}. Far too many of: {seed}. #seedswap
Plot {minutes} has come free. The waiting list knows who it is. Cake will not change the order.
Water's back on at the allotments. Thank you @{friend}, and thank you, wrench.
Label your jars, please. Last time we gave out {number} envelopes marked "probably {seed}".
Bonfire day is {day}. Check the heap for hedgehogs first. Then check again. #allotments
""",
        sayings="""
If you left your car window open on Station Road, you now own two courgettes. You're welcome.
I grew one (1) perfect carrot and nobody is allowed to eat it.
The scarecrow on plot 9 is wearing my jacket. It looks better on him.
Marrow measured. 61 cm. Not saying anything until show day.
Slug pubs are working. They're singing.
Gardening is mainly standing with your hands on your hips saying "right".
Sat on an upturned bucket with a flask for an hour and called it weeding.
My compost is hotter than my shower. Considering options.
Grandad planted this rhubarb in 1971. We have never once got ahead of it.
Plot 14 has a shed, a chair, a radio and no vegetables. Marge says it's at the planning stage.
Found my good trowel! It was in the compost, as was, apparently, a teaspoon, a sock and a remote control.
First strawberry of the year. Shared it between five of us, like a parable.
Does anyone want eleven squashes? Does anyone want to stop me next year?
Sowed everything in rows, labelled it neatly, and then the hens came.
""",
        templates="""
{crop} are up! Only {number}, but they're mine. #allotments
The {pest} have had every last one of my {crop}. I'm not angry. I'm a bit angry.
Swap: my spare {crop} for your spare {crop}? Plot {minutes}, by the green shed.
{neighbour} leaned on the gate and told me what's wrong with my {crop}. For {minutes} minutes.
Anyone got a few seeds of {seed} left? I can offer {crop} and gossip.
Left a crate of {crop} on the wall in {street}. Help yourselves, please, I beg you.
Who else is sowing {seed} this week, or is it only us fools?
Today's harvest: {number} {crop} and a sunburnt neck.
Recipe for using up {crop}: https://example.org/recipes/{cm} (it's soup, it's always soup)
Thanks @{friend} for watering my {crop} while I was away. They look better than when I left, which hurts.
""",
        replies="""
@{a} Mine too! It's the {pest}, I'm telling you.
@{a} I can bring a bag round to {street} on {day}.
@{a} Crushed eggshells. Or swearing. Both help.
@{a} Try {seed} instead, nothing eats those. Nothing. Not even us.
@{a} Come by plot {minutes}, kettle's on.
@{a} you're braver than me, I've given up on {crop} altogether
""",
    ),
    "library": Topic(
        host="wendbridge_library",
        notices="""
Storytime on {day} at ten. This week there will be a dragon, so bring a parent if you're nervous.
Just back on the shelf: {book}. {number} people are waiting, so read fast. #wendlibrary
Found between the pages of {book}: a bus ticket, a pressed violet, and a rasher of bacon. Please. Bookmarks
  are free.
The reading group meets {day} at {time} to argue about {book}. Biscuits supplied, opinions not. #wendlibrary
Open late on {day}. The heating works, the chairs are soft, nobody will ask what you're doing.
Lost property this week: {thing} and {thing}. Ask at the desk.
Renew online at https://example.org/library/renew or just come in and look sorry.
""",
        sayings="""
Returned a book four years late. The librarian said "we'd begun to worry about you".
My son has borrowed the same book on diggers eleven times. We own it. He prefers theirs.
The library has a jigsaw on the big table that anyone may add to. There is one piece missing and one suspect.
Warm, dry, free, full of stories. I don't know who invented the library but I'd like to buy them a pint.
Read on the bench outside until the rain got to my page before I did.
Whoever writes tiny reviews in pencil on the last page of the thrillers: you were right about the butler.
Got my first library card at 67. Feels like being given the keys to something.
Overheard in the children's corner: "I can't read yet but I know how this one ends."
Quiet study area: two students asleep, one man laughing at an atlas.
Borrowed a ukulele from the library of things. The family asks when it's due back.
I only went in to use the photocopier and came out with six novels and a cake tin shaped like a hedgehog.
The librarian remembered what I'd liked last time. Nobody at the bank remembers my name.
""",
        templates="""
Finished {book} at two in the morning and now I have nobody to talk to. #wendlibrary
Gave up on {book} on page {cm}. Life is short and it isn't.
Is anyone in the queue for {book} a slow reader? Asking as number {number}.
{neighbour} and I have both borrowed {book} and are racing.
Recommend me something like {book} but shorter, or funnier, or about {birds}.
@{friend} you were right about {book}. I'm sorry I called it a doorstop.
Somebody has left {thing} in the library again.
Reading {book} aloud to the kids. They want it to have more {pest} in it.
""",
        replies="""
@{a} Try {book} next, it undid me for a week.
@{a} No spoilers! I'm only on page {cm}.
@{a} I left my copy in {place}, if you find it, keep it.
@{a} See you at the reading group then. Bring tissues.
@{a} My mum says the same, and she's read everything in there twice.
""",
    ),
    "repair": Topic(
        host="repair_cafe",
        notices="""
Repair café on {day}, from {time}, church hall. Bring it broken, take it home less broken. #repaircafe
Last session: {minutes} things in, {number} fixed, {number} diagnosed, one buried with honours.
Wanted: someone who understands zips. We have a queue. #repaircafe
Patient of the week: a {broken}. The cause: {cause}. #repaircafe
Does anybody have a spare belt for a {broken}? Will pay in cake.
How to fix a {broken} yourself, with pictures: https://example.org/repair/{cm}
""",
        sayings="""
They fixed my late husband's radio. It came on in the middle of the cricket, as if he'd just left the room.
"It's not broken, it's Swedish." Best diagnosis of the day.
Took in a clock that had stopped. Turns out I'm just meant to wind it.
My job at the repair café is holding the torch. I've been promoted to holding two torches.
Seven-year-old mended her own music box today, with a screwdriver bigger than her arm. Entire hall applauded.
Darned a jumper so often that it is now mostly darn. Is it the same jumper? Discuss.
The screw left over at the end is called "the spare". That's what we tell people.
Ironing board: unfixable. The squeak is structural. We gave it a name instead.
I've learnt to solder at 74. Burnt one thumb, mended one train set. Good trade.
The man who fixes lamps and the woman who fixes chairs are getting married. Bring something broken.
Turned it off and on again and was thanked with a jar of plum jam. I'll take it.
""",
        templates="""
My {broken} works again! It was {cause}. #repaircafe
The {broken} has started smoking. Is that one for the repair café or the fire brigade?
Before I throw out this {broken}: can anyone use the parts? I'm on {street}.
{number} hours on a {broken}. It now works and also hums in B flat.
@{friend} fixed our {broken} in {minutes} minutes and wouldn't take a penny. Legend.
Does anyone have the manual for a {broken}, older than me?
Bought a {broken} from the charity shop for a pound. You can guess why it was a pound.
Queued behind {neighbour} and a {broken} the size of a calf. #repaircafe
""",
        replies="""
@{a} Ha, ours was {cause}.
@{a} Story of my {broken}.
@{a} We had the same {broken}. It outlived the marriage.
@{a} Have you tried a new fuse? It's the fuse two times out of three.
@{a} I've a box of bits in the shed, come and rummage.
""",
    ),
    "football": Topic(
        host="wendbridge_fc",
        notices="""
Full time: Wendbridge v {team}, {score}. Pies sold: {cm}. #upthewend
Next up: {team}, {day}, kick-off at {time}. Pitch permitting. Groundsman not optimistic. #upthewend
Training is on {day} at {time}. Shin pads. SHIN PADS.
Wanted: a linesman for {day}. Eyesight an advantage, not a requirement.
Match report v {team}, with only a little bias: https://example.com/wendfc/report/{cm}
Under-9s: {score} against {team}. Both sides believe that they won, and we've let them.
""",
        sayings="""
Dog on the pitch, eighty-third minute. Best passing we've seen all season.
Our keeper is also our plumber, so a leak on a Saturday afternoon is really two problems.
I've supported this club for forty years and it has never once supported me back.
The ball is in the river. The spare ball is in the river. Play continues with a spirit of enquiry.
Bovril, drizzle, a nil-nil draw. I wouldn't be anywhere else.
Substituted at half time by my own daughter. She was better. I clapped.
Lost on penalties. Our third was last seen over Netherby.
My lad scored! For the other side. But what a finish.
The half-time raffle was won by the referee. There were scenes.
New kit has arrived. It is described as "sunset". It is pink. We love it.
Washed seventeen shirts. Sixteen came out. Somebody on the team plays in something else now.
The women's side train in the rain without a word. The men's side send a group message about the rain.
""",
        templates="""
{score} against {team} and I've lost my voice. #upthewend
Anyone driving to {team} on {day}? Two of us and a drum.
How did it end {score} against {team}? They had a man in goal with a sling.
{neighbour} says the manager should go. {neighbour} said the same after {score}.
Mud: {minutes} millimetres. Score: {score}. Spirits: {mood}. #upthewend
Under-9s {score} today, and every one of them cried, ate a sausage and forgot.
Saw @{friend} at the game, shouting things I can't repeat at a linesman who is also their uncle.
Pitch inspection on {day}. There's a {bird} on the centre spot and it seems settled.
""",
        replies="""
@{a} We were robbed.
@{a} Same time next week then. I never learn either.
@{a} I've still got the pie stains from {team}.
@{a} Bring the drum!
@{a} Worst I've seen since {team} away, when the coach caught fire.
@{a} {score}, though! I'd have taken that in the car park.
""",
    ),
    "school": Topic(
        host="wendbridge_primary",
        notices="""
Lost property mountain is now taller than Year 2. Today's peak: {thing}. Please collect.
Class {number} hatched {number} chicks this week. They are all called Mr Obi.
School fair on {day} from {time}. Cakes welcome, nuts not, teachers in the stocks.
Nit letter. You know the one. https://example.org/school/nits
Thank you @{friend} for showing Year 4 how a {broken} works, and how it doesn't.
Walking bus leaves {street} at eight sharp. Puddles are part of the curriculum.
""",
        sayings="""
World Book Day. It is 7.40. He has just told me. He's going as "a man reading".
Parents' evening: "She is a natural leader." She's organised a strike.
Homework: build a volcano. Kitchen: Pompeii.
Was asked at the gates who I was. "Noor's mum." Have two degrees. Noor's mum is the best of them.
Son's essay: "My hero is my dad because he is allowed to use the big drill."
The school hamster is with us this weekend. Nobody breathe.
Lollipop lady retires on Friday after 31 years. Bring flowers and please cross where she tells you, one last
  time.
School play. Mine was Third Sheep. I have never seen a sheep done with such bitterness.
Seven recorders. One tune. No survivors.
Packed lunch came home uneaten because "Arlo had better". Who is Arlo and will he adopt me?
Exams over!!! I have slept, I have eaten, I have forgotten all of chemistry.
""",
        templates="""
Does anyone have a costume of {a_creature} by tomorrow? Asking, as ever, too late.
Maths homework has beaten me, @{friend} and {neighbour}. It's for eight-year-olds.
Found outside school: {thing}. On the wall by {place}.
School run report: {mood}, {number} minutes late, one shoe.
Mine wants to be {a_creature} when she grows up. Careers evening will be short.
Cake sale after school on {day}: I've made {bread}. The bottoms are a secret.
Her teacher says she's doing well with everything but {birds}. I don't know what that means either.
""",
        replies="""
@{a} Solidarity. We were {a_creature} last year and never got the paint off.
@{a} You can borrow ours, it's only been chewed a bit.
@{a} Same here. Word for word.
@{a} It gets easier. No, it doesn't, but they get taller.
@{a} I'll be by the gates with {drink}.
""",
    ),
    "bakery": Topic(
        host="crumb_bakery",
        notices="""
Out of the oven in {minutes} minutes: {bread}. #crumb
Sold out of {bread} by nine, sorry. {bread} still warm on the counter.
Yesterday's {bread} at half price until {time}, and then it goes to the ducks. No: to the pigs. Bread is bad
  for ducks.
New today, after {number} failures: {bread}. Be honest. But be kind.
Back on {day}. We're off to a wedding, and we're the cake.
Whoever paid for the next {number} customers' {bread} this morning: half the shop was in tears. Thank you.
""",
        sayings="""
I can smell the bakery from bed, which is either a blessing or the reason for these trousers.
Asked for "a small something". Left with a carrier bag. They know me.
Somebody at Crumb has iced a bun with the face of the mayor. It's very good. I felt bad eating the chin.
My sourdough starter is called Clint Yeastwood and he is not well.
The queue at Crumb on a Saturday is our real town council.
If heaven has a smell it's the back door of Crumb at half past five.
Bread is rising. I am not.
The last cinnamon bun went to the man in front of me. I'll remember that coat.
@crumb_bakery whatever you did to the rye this week, never stop doing it
Dropped a cream horn on the church steps. Four jackdaws and a churchwarden moved at once.
Taught my neighbour to knead. Forty years of grudges, gone into that dough. Delicious.
""",
        templates="""
The {bread} at Crumb today. That's all. That's the message. #crumb
Baked {bread} myself. @crumb_bakery have nothing to fear.
Swapped {number} eggs for a {broken} and a bag of {bread}. I think I won.
Queue at Crumb is past {place}. I'm staying. I've come for {bread}.
@{friend} brought {bread} to the office and is now in charge of everything.
Is it wrong to have {bread} for lunch if I also had {bread} for breakfast?
{neighbour} got the last {bread}. There were words.
Recipe for {bread}, as near as my gran would ever write it down: https://example.org/recipes/{cm}
""",
        replies="""
@{a} Save me some {bread}!
@{a} I could smell it from {street}.
@{a} You've made me put my shoes on.
@{a} Controversial, but I'd still take the {bread}.
@{a} Is there any left? I'm {minutes} minutes away.
""",
    ),
    "bus": Topic(
        host="bus7_watch",
        notices="""
The 7 is {minutes} minutes late at {street}. Cause: {bus_cause}. #bus7
The 7 is ON TIME at {street}. We repeat: on time. Please remain calm. #bus7
Diversion by {street} until {day}. The stop at {place} isn't served, but the driver will slow down and wave.
Today's average for the 7: {minutes} minutes late. Last month: more.
Left on the 7: {thing}. It's with the driver, who is getting attached. #bus7
Two 7s at once at {spot}. They've travelled in company since {village}.
""",
        sayings="""
Waited for the 7 so long that I've made friends, learnt some Portuguese and joined a book club.
The bus driver waited for an old man with two bags who was still at the corner. Nobody on board so much as
  sighed.
Ran for the 7. Caught the 7. It was the 9. I live in Fenwick now.
If you thank the driver when you get off, you're my people.
Bus shelter has a new poem in it, in felt tip. It's not bad. Bit long in the middle.
The screen says "Due". The screen has said "Due" since the Romans.
A child on the bus has just explained the whole of Star Wars to me without drawing breath. I feel I've been.
Upstairs, front seat, rain on the glass, whole town going by like telly.
The 7 has got a new horn. It does two notes. Everybody on Wharf Road knows both.
There's a hen on the bus. She has a ticket.
Petition to bring back the Sunday 7: https://example.org/petitions/sunday-bus (1,204 so far, and it's a
  small town)
""",
        templates="""
{minutes} minutes at {place} and no sign of the 7. Feeling {mood}. #bus7
Has anyone seen the 7? Last heard of near {village}.
On the 7 next to somebody with a {broken} on their lap. Nobody has asked. #bus7
Did anyone pick up {thing} on the 7 this morning? It's my {kin}'s.
The 7 went straight past {street} with @{friend} waving at me from the top deck.
Driver on the 7 is whistling {song}. We're all {mood}.
The 7 was early. EARLY. I watched it leave from {place} with my {bread} in my hand. #bus7
""",
        replies="""
@{a} It's just passed {spot}, sideways.
@{a} I gave up and walked to {village}.
@{a} The driver says {bus_cause}.
@{a} Hold the door!!
@{a} There'll be two in a minute. There are always two.
""",
    ),
    "weather": Topic(
        host="wend_levels",
        notices="""
The Wend at the weir: {cm} cm, rising. Stay off the towpath. #wend
The Wend at the weir: {cm} cm, falling. #wend
The Wend at the weir: {cm} cm, steady. The {bird} on the gauge is unmoved.
Sandbags at {place} from {time}. Please take what you need, and knock next door. #wend
Ferry Road is under {number} inches of water. It's a road, not a ford. Looking at you, silver hatchback.
How to read the levels: https://example.org/wend/levels
""",
        sayings="""
It's raining in that special way where the umbrella only decides which side.
Sandbags went down Ferry Road hand to hand tonight, sixty of us, and someone started singing. I love this
  town.
The river is in the garden. The gnome is fishing, at last.
Neighbours I'd never spoken to carried my piano upstairs. Two of them can play it. We had a concert.
Sun! Everyone is out on the High Street blinking like moles.
Fog so thick I said good morning to a postbox.
The trampoline has left us. If it lands with you, it was a good trampoline.
Power's out on Church Hill. Candles, cards, and Grandad telling the goat story again. Leave it off a bit
  longer.
Weather app says 0% chance of rain. Weather app should look out of the window.
Red sky, whole street standing on doorsteps just to see it. Nobody said a word. Then someone's dog did.
The water's gone down. Mud to the second stair. The kettle went on before the lights did.
To whoever left soup on every doorstep on Ferry Road: we know it was you, Mo. Thank you.
""",
        templates="""
Rain on {street} since {day}. Am {mood}. #wend
Anyone else's shed heading for {village}? The wind's got up at {spot}.
How's {street} looking, is it passable? I've promised {neighbour} a lift.
The light over {spot} just now. Worth getting {mood} for.
My {weather_gear} has given up. That's number {number} this year, or it feels like it.
Water's over the path by {spot}, go round by {street}. #wend
Is the thunder near {street} as well, or is that just our {broken}?
@{friend} lent us a pump and {number} pairs of hands. Never moving away from here.
""",
        replies="""
@{a} Same on {street}. Ducks are using the pavement.
@{a} Dry as a bone in {village}, I'm sorry to say.
@{a} Need a hand? I've wellies and nothing on till {time}.
@{a} Stay safe. Kettle's on if you need somewhere.
@{a} It'll be worse on {day}, my knee says so.
""",
    ),
    "choir": Topic(
        host="wendbridge_choir",
        notices="""
Rehearsal on {day} at {time}, church hall. We'll do {song} until it gives in. #choir
{voices}: please look at bar {cm} of {song}. You know why.
No audition, no experience, no tenors. Come and sing! https://example.org/choir/join
Concert on {day} at {time}: {song}, {song}, and cake. Free; a bucket will be shaken. #choir
Somebody has gone home with the wrong folder. Yours has {thing} drawn on {song}.
""",
        sayings="""
Sang in the launderette while waiting. Two strangers took the harmony. Spin cycle kept time.
"Sing as if you were sorry," said the conductor. We've never sounded better.
The tenor is ill. The tenor. Singular.
Joined the choir after Mum died because I didn't know what to do with my Tuesdays. Now I do.
I don't sing, I stand next to Vera and open my mouth.
We held the last chord and heard the swifts go over. Nobody wanted to breathe in.
Conductor's stick went into the audience. An old lady handed it back and said, "Faster."
Have had the alto line of the Fauré in my head since Thursday. Only the alto line. It's four notes.
Carols at the care home. A man who hasn't spoken since spring sang every verse.
Page turner sneezed. We skipped to the Amen. Reviews were good.
""",
        templates="""
{song} is stuck in my head and now it's going to be in yours. #choir
{voices} were flat tonight. I can say that, I'm one of the {voices}.
Heard the choir through the window at {place}, {song}, stopped the bike and just stood.
Anyone else practising {song} in the car? {neighbour} has seen me at the lights.
Rehearsal was {mood}. Then {song} came right, all at once, and it was worth it.
@{friend} sang the solo in {song} and I had something in both eyes.
Can I swap to the {voices}? They get the tune and the biscuits. #choir
""",
        replies="""
@{a} That top note is between me and my doctor.
@{a} The {voices} would like a word.
@{a} Goosebumps. Actual goosebumps.
@{a} see you on {day}, I'll bring {bread}
@{a} We'll be humming {song} in the queue at {place}, as usual.
""",
    ),
    "cats": Topic(
        sayings="""
Lost cat poster on the lamp post. Cat sitting under the lost cat poster. Cat will not discuss it.
It turns out our cat has three families, two names and a better dinner at number 12.
Found: cat. Very friendly. In my bath. All doors locked. Explain.
The vet says he's overweight. He says the vet's a liar. I'm only the driver.
She's home!! Eleven days. Thin, filthy, furious, purring. Thank you to everyone who looked in their sheds. 🐈
Cat brought me a mouse. I screamed. Cat brought me a second, smaller mouse, as one would for a beginner.
Sir Reginald has been to evensong more often than I have.
Our old boy went to sleep today, in the sun, on the warm bit of the wall where you all used to say hello to
  him.
Whoever put a tiny hi-vis jacket on Chairman Miaow: he's wearing it with authority.
The dog and the cat have come to an arrangement. The dog wasn't consulted.
""",
        templates="""
LOST: {cat}, {looks}, last seen near {spot}. Please check your sheds! #lostcat
FOUND on {street}: a cat, {looks}. Answers to nothing. #lostcat
{cat} is home! Was in {hideout} the whole time. Thank you all.
{cat} has been sick on {book}. Is there a fine, @wendbridge_library?
Has anyone else been visited by {cat}? {looks}. Comes at {time}, leaves with ham.
{cat} watched a {bird} for an hour today and then asked me to do it.
{number} days without {cat}. {looks}. Even if it's bad news, please tell us. {street}.
@{friend} your {cat} is in {hideout} again.
Cat-sitting {cat} this week. So far I've been bitten, ignored and slept on.
Photo of {cat} looking {mood}: https://example.org/photos/{cat_photo}
""",
        replies="""
@{a} Looking out for them on {street}. Fingers crossed.
@{a} Saw one just like that by {spot} about {time}!
@{a} Try {hideout}. It's always there, don't ask me why.
@{a} Put their blanket outside the back door, that's how we got {cat} home.
@{a} Oh, I'm so glad you wrote. Give them a stroke from us.
@{a} Ours is called {cat} and does exactly the same.
""",
    ),
    "council": Topic(
        host="town_council",
        notices="""
Council meets {day} at {time}. On the agenda: {issue}, {issue}, any other business. There is always other
  business.
Minutes of the last meeting: https://example.org/council/minutes/{cm} (item {number} is worth it)
We heard you about {issue}. A working group has been formed. It has had {drink}.
Road works on {street} from {day}, for {number} days. We've been told {number} days.
Volunteers wanted for {spot} on {day}: litter pickers, gloves and {bread} provided.
""",
        sayings="""
Council meeting: two hours on bins, four minutes on the budget. Democracy is a wheelie thing.
The motion to rename the roundabout was defeated. The roundabout remains nameless and free.
Spoke at the public meeting. My knees shook, I lost my place, people clapped. We kept the bus shelter!
"Through the chair," said the councillor, and threw a biscuit through the chair.
The new bollard has been hit. It was up for nine minutes. I think that's why there's a bollard.
Minutes record that "Mr Harding expressed himself". He certainly did.
They've mended the footbridge. Properly. With wood. I walked over it twice and then once more for my dad.
There's a consultation about the consultation.
Someone has put a knitted hat on the statue and the council has voted, 7 to 2, that it stays.
Eighteen years I've asked for a bench on Church Hill. Sat on it today. Good bench.
""",
        templates="""
Is it me or has {issue} been on the agenda since before I was born?
Going to the council on {day} about {issue}. Who's with me? #wendbridge
If we can put a man on the moon we can sort out {issue} on {street}.
{neighbour} spoke for {minutes} minutes about {issue} and, do you know, was right.
Petition about {issue}: https://example.org/petitions/{cm} #wendbridge
@town_council any news of {issue}? It's been {number} months.
Credit where it's due: {issue}, sorted. Thanks @{friend} for nagging.
New pothole on {street}. {cm} cm across. We've called it {cat}.
""",
        replies="""
@{a} Hear, hear.
@{a} With respect, {issue} is the bigger scandal.
@{a} I'll bring a placard and {bread}.
@{a} They'll say there's no money. They found money for {issue}.
@{a} Put it in writing, and copy in {neighbour}. Works every time.
""",
    ),
    "cycling": Topic(
        sayings="""
Uphill to Harrow Hill: 51 minutes. Downhill: one long vowel.
Got overtaken by a lady with a cello on her back. I have questions and no breath.
I've cycled to work every day this year. My legs are magnificent and my hair is a disgrace.
Learnt to ride a bike today. I'm 58. Fell in a hedge, got up, carried on. Why did nobody tell me?
Stabilisers off! She went the length of Orchard Close shouting "DON'T LET GO". I had let go at number 4.
The new cycle lane is eleven metres long. I've timed it. I've a personal best.
Waited at the red light on my bike while three cars didn't. I had the moral high ground to myself.
Bike stolen from the station on Monday. Bike returned on Thursday, with the brakes fixed and a note:
  "sorry". ???
Sunday ride: 40 km, 4 cafés. We're getting it nearly down to ten a café.
Whoever oils the squeaky gate on the towpath: you're seen, you're loved.
""",
        templates="""
Out to {village} and back before breakfast, with {mishap}. #bikes
Ride on {day}, from {place} at {time}. Slow group. Slower than that. #bikes
{mishap} on the road to {village}. Still better than the 7.
Thank you to the stranger on {street} with a pump and some {bread}.
Watch out on {street}: {number} new potholes, one with a {bird} in it.
Has anyone a child's bike to lend till {day}? For {neighbour}'s granddaughter.
{village} by bike with @{friend}: they talked, I breathed.
Route for {day}, flat-ish: https://example.com/routes/{cm} #bikes
""",
        replies="""
@{a} I'm in, if there's cake at the other end.
@{a} "Flat." You said that about {village}.
@{a} I had {mishap} on the same stretch!
@{a} Chapeau!
@{a} lights, please. For your mother's sake, lights.
""",
    ),
    "film": Topic(
        host="film_club",
        notices="""
On {day} at {time}: {film}. Doors half an hour before, cushions first come first served. #filmclub
Vote for next month: {film} or {film}? https://example.org/filmclub/vote
{cm} of you came to {film}. We've {minutes} chairs. Sorry to the window sill.
The projector is at the @repair_cafe. If it recovers: {film} on {day}. If not: shadow puppets.
Found after {film}: {thing}. Found during {film}: {cat}. #filmclub
""",
        sayings="""
At film club the reel stopped ten minutes from the end, so Arthur stood up and acted it. Arthur was better.
Whoever brought the crinkliest sweets in the world to a silent film: respect, in a way.
Cried at the bear. Forty grown people and a vicar cried at the bear.
Subtitles went missing. Carmen translated live, and gave everyone the accents of people we know.
First date at film club. She laughed in the right places. Then in the wrong ones. Marrying her.
Outdoor screening: film about a drought, cancelled by rain.
The village hall smells of popcorn until Thursday and the toddler group is feral.
I've seen Casablanca nineteen times and I still think she might not get on the plane.
The bat in the projector beam got a round of applause. Second billing next time.
""",
        templates="""
Just out of {film}. Walked home the long way by {spot}, so as not to talk. #filmclub
Never seen {film}. @{friend} has stopped speaking to me until I have.
Is {film} all right for a nine-year-old and {neighbour}?
{film} in a village hall with a leaking roof and {drink} is the only way to see it.
Unpopular opinion: {film} is better than {film}. #filmclub
The chap behind me explained {film} to his wife throughout. I rather enjoyed it.
{number} of us left at the end of {film}. The best people in town.
""",
        replies="""
@{a} I can't, I'd only cry again.
@{a} The ending! THE ENDING.
@{a} Save me a cushion.
@{a} No. It's {film} or nothing.
@{a} Fell asleep, woke up, was in {film}. Lovely evening.
""",
    ),
    "town": Topic(
        sayings="""
Moved here a month ago. Three people have brought soup. I don't think I can ever leave.
We are four now. Welcome, little Ida. 👩‍👩‍👧‍👧
yuki_tanaka> おはよう、ウェンドブリッジ。川の霧がとてもきれいです。
samira_h> صباح الخير يا جيران، الخبز الطازج جاهز والشاي على النار ☕
carmen_vidal> Mi abuela decía: «Barriga llena, corazón contento». Hoy, tortilla para toda la calle.
marta_z> Zażółć gęślą jaźń – that's what I type to see whether a website minds. This one doesn't.
dmitri_v> Доброе утро, соседи! Сирень у моста зацвела.
eleni_p> Η γιαγιά μου λέει ότι η βροχή εδώ είναι «σαν στο χωριό, αλλά πιο ευγενική».
moses_t> תודה לכל מי שעזר אתמול עם השקים. איזו עיר.
amit_p> आज मेले में पकौड़े सबसे पहले खत्म हो गए। अगली बार दुगने बनाएँगे।
jiwoo_han> 안녕하세요! 도서관에서 한국어 책을 찾았어요. 세 권이나!
mei_lin_wu> 雨停了，河邊的人都出來散步。真好。
ploy_s> สวัสดีค่ะ ใครมีใบกะเพราบ้างคะ แลกกับคุกกี้ได้
kofi_mensah> Citizenship ceremony today. Cried at the mayor, cried at the sausage rolls. 🇬🇭🇬🇧
World dinner at the church hall: 🇧🇷 🇵🇱 🇮🇳 🇯🇲 🇸🇾 🇮🇪 and one shepherd's pie. 🥧 Bring a fork.
Haiku for bin day:¶brown this week, not green.¶Everyone looks at number nine.¶Number nine is right.
Things I can see from the bench:¶– two swans¶– one argument¶– the whole of my life, more or less
To do:¶1. phone the bank¶2. fix the gate¶3. sit in the sun until 1 and 2 go away
Shopping list found on Mill Street:¶eggs¶candles¶something nice for Len¶string
Roses are red,¶the river is brown,¶the 7 is late¶and I do love this town.
Dear whoever parked across my drive:¶¶I've watered your car.¶¶Kind regards
Café, naïve, Zoë, smörgåsbord: today's crossword was sponsored by accents.
🎉🎉🎉 She said yes 🎉🎉🎉
👨‍👩‍👧‍👦 + 🐕 + 🚐 = never again (same time next year)
👩🏽‍🌾 + 🐌 = 😤
old_pete> Eighty today. I don't feel a day over a hundred.
ok who taught the parrot on Tanner's Row to do the reversing lorry
Does the smell by the canal have a name yet? It should.
Hello, is this thing on
Left my phone in the fridge. Found it when I went to look for the milk, which was in the car.
Someone's playing the piano in Foundry Lane with the window open. Don't stop.
Three weddings, two funerals and a jumble sale this week. I need a second suit.
My husband has bought a tuba. I wasn't consulted. Nor was the street.
Clock on the town hall has been right twice today. Progress.
The knitting group has yarn-bombed the cannon. It's the best it has ever looked.
Nothing to report. Lovely, isn't it?
If you see Grandad Ron out in his slippers, be a love and walk him home. He likes to talk about trams.
First pint poured by my own daughter in the Ferryman. She short-changed me. Proud.
Car boot sale: sold a lamp for £4, bought a lamp for £6. I'm told that this is the economy.
Please stop asking: the goat is fine.
""",
        templates="""
Found by {place}: {thing}. Message me. #wendbridge
Lost, probably near {spot}: {thing}. Reward: {bread}.
Evening walk by {spot}. Met {neighbour}, two dogs and a {bird}. #wendbridge
Does anyone know who's playing {song} on {street} at this hour? It's lovely. It's midnight.
Can anyone lend me a {broken} till {day}? I'll bring it back with {bread}.
Giving away: one {broken}, works if you're nice to it. {street}.
Happy birthday @{friend}! {drink} at our place, {time}. 🎂
{neighbour} has just said good morning to me for the first time in {number} years.
Feeling {mood}. {drink}, a blanket, and {book}.
Small-town news: {place} has a new door. It opens the other way. We're all {mood}.
Overheard at {place}: "I'm not saying it was {neighbour}. I'm saying it was tall."
@{friend} thank you for {day}. You know what for. 💛
Jumble sale in the church hall on {day}, {time}. I've already got my eye on a {broken}.
""",
        replies="""
@{a} This is why I love it here.
@{a} Ask {neighbour}, they know everything.
@{a} ❤️
@{a} I think that was me, sorry!
@{a} Come round, there's {drink}.
@{a} Could be {neighbour}'s. Try knocking on {street}.
@{a} 😂😂
""",
    ),
}

CONVERSATIONS = """
a: Who has been leaving a single fresh egg on my doorstep every Sunday? I'm not complaining. I'd just like
  to know.
b: @{a} Check the hedge. I think you've been adopted by a hen.
a: @{b} It IS a hen. She's looking at me. Her name is Sunday now.

a: Anyone got a ladder? Frisbee, church roof, don't ask.
b: @{a} Ours is in the shed, mind the third rung.
a: @{b} Thank you! I minded the third rung. The fourth one got me.

a: What's the loud banging on Foundry Lane?
b: @{a} That's the samba class.
a: @{b} At what point does it become samba?
c: @{a} @{b} Week six.

a: Can someone recommend a plumber?
b: @{a} KeeperKaz is in goal till four but then he's all yours.
c: @{a} Whatever you do, not me. I flooded my own mother.

a: I think I've seen an otter at the weir!
b: @{a} Long, brown, wet?
a: @{b} Yes!
c: @{a} @{b} That's my brother. He swims on Wednesdays.

a: Is the library open today?
wendbridge_library: @{a} We are! And the book you've been waiting for since spring is behind the desk with
  your name on.
a: @{wendbridge_library} RUNNING

crumb_bakery: Small disaster. We have put salt in the doughnuts.
a: @{crumb_bakery} Are they cheaper?
crumb_bakery: @{a} They're free, and we're sorry.
b: @{crumb_bakery} Reader, I ate two.

bus7_watch: The 7 is stuck behind a tractor at Stoke Underwood. #bus7
a: @{bus7_watch} That's me on the tractor. Hello. Sorry. There's nowhere to pull over.
b: @{a} I'm on the bus! Waving!

town_council: The fountain will be switched back on at noon on Saturday. All welcome.
a: @{town_council} Will it be the same colour as last time?
town_council: @{a} We have spoken with the gentleman about the dye.

a: Football's off, pitch is under water.
b: @{a} Could we not call it water polo?
wendbridge_fc: @{b} Please stop giving our striker ideas.

a: My first loaf. Be gentle. https://example.org/photos/loaf
b: @{a} Is it meant to be that shape?
a: @{b} It's rustic.
b: @{a} It's a hat.

a: Does anyone's dog want a walk? I miss having one.
b: @{a} Mine would LOVE that. She's slow and stops at every lamp post.
a: @{b} So do I. We'll get on.

a: Good luck to everyone with exams this week!
b: @{a} thank you. i have revised everything except the things
a: @{b} That's the spirit. Come for pancakes after.

a: Two tickets for the concert, can't go, free to anyone who'd enjoy them.
b: @{a} Me and my nan would! She used to sing the Fauré.
a: @{b} They're yours. Front row, so she can join in.

a: I've locked myself out in my dressing gown. Wharf Road. The pink one.
b: @{a} The house or the dressing gown?
a: @{b} Both. Hurry.

a: What do people do with green tomatoes?
b: @{a} Chutney.
c: @{a} @{b} Chutney. You'll want a bigger pan.
a: @{b} @{c} I have made chutney. What do people do with forty jars of chutney?

a: Looking for a fourth for cards on Tuesdays. We're old but vicious.
b: @{a} I play a bit.
a: @{b} "A bit"! You had the shirt off my back in '94. Welcome aboard.

a: Anyone else just hear an enormous bang?
b: @{a} Sorry. Pressure cooker. We're fine. The ceiling's got lentils.
c: @{b} Do you need a ladder or a spoon?

wend_levels: The Wend at the weir is at 148 cm and rising quickly. Ferry Road, please move cars and cats
  upstairs. #wend
a: @{wend_levels} Cars upstairs?
wend_levels: @{a} It's been a long night. Cars uphill. Cats upstairs.
b: @{wend_levels} You've been up since three for us. Bacon roll on its way.

a: Whose turn is it to wind the church clock?
b: @{a} Yours.
a: @{b} That explains a lot about this week.

a: I'd like to learn Portuguese. Anyone?
b: @{a} Eu posso! Thursdays, my kitchen, you bring biscuits.
a: @{b} Obrigado! (That's all I have.)
b: @{a} It's all you need for biscuits.

film_club: Tonight's film has been delivered in Finnish, without subtitles. We're going ahead.
a: @{film_club} Is it any good?
film_club: @{a} We'll know by the sighs.
b: @{film_club} Best night in years. I think he married the lake.

a: Does anyone have jump leads?
b: @{a} Two minutes, I'm at the Co-op.
a: @{b} You're a hero. Bring the 7 as well, it won't start either.

a: The swan is on the High Street again.
b: @{a} Which way is it going?
a: @{b} Wherever it wants.

a: I've written a poem about the flood and I'd be too shy to read it out.
b: @{a} I'll read it out for you. I was a town crier for eleven years.
a: @{b} It's quite a quiet poem.
b: @{a} I have a quiet bell.

repair_cafe: A gentleman left us a wooden box last month that plays a tune when opened. It's mended. Whose
  is it?
a: @{repair_cafe} Does it play "Moon River"?
repair_cafe: @{a} It does.
a: @{repair_cafe} Then it's Mum's. I'm on my way. Thank you. Thank you.

a: Could whoever borrowed my wheelbarrow bring it back, or at least tell me how it's getting on?
b: @{a} It's doing well. It's moved a shed and met a badger.

a: Job interview tomorrow and my only shirt has a beetroot on it.
b: @{a} What size? I've five ironed ones and nowhere to be.
a: @{b} L! You're saving my life. It'll come back with good luck in the pockets.

seed_swap: The giant pumpkin has been weighed: 71.4 kg. The winner will be announced when we can lift it off
  the winner.
a: @{seed_swap} I'm all right, I've got my phone.
b: @{a} Do you want anything from the shop?

a: Why are there forty people in my front garden with telescopes?
wendbridge_birds: @{a} Please don't open your door. There's a waxwing on your gate.
a: @{wendbridge_birds} I'm out of milk.
b: @{a} I'll bring you milk. Stay down.

a: My granddaughter set me up on this. What do I do now?
b: @{a} You just did it! Welcome.
c: @{a} Now you complain about the bus.
a: @{c} I can do that.

a: Neighbours of Tanner's Row, I'm learning the trumpet. I apologise for all of it.
b: @{a} We thought it was a cow in trouble. We rang somebody.
a: @{b} He came. He was very kind. He plays the horn.

a: Is it worth going to the dump today?
b: @{a} Queue back to the roundabout, but there's a man selling samosas along it.
a: @{b} So yes.

wendbridge_choir: Our pianist has broken a finger. Can anyone play for Saturday?
a: @{wendbridge_choir} I've not touched a piano since I was sixteen, but I'd like to try.
b: @{a} You play?! Thirty years next door and I had no idea.

a: Does anyone know the name of the man who feeds the ducks by the lock? He hasn't been there for a week.
b: @{a} That's Frank. Hip operation. He's grumpy, so he's fine.
a: @{b} Tell him the ducks are being looked after. We've a rota.
"""

# Weight of each hour in which a post may be made, from midnight: quiet nights, a lunch break, long evenings.
HOURS = (1, 0.5, 0.3, 0.3, 0.5, 2, 5, 9, 10, 9, 9, 10, 13, 11, 9, 9, 11, 13, 15, 16, 15, 12, 7, 3)
NOW = 18  # the hour at which the town is looked at, for want of a clock: ages count back from this one

Line = tuple[str, str]  # (speaker, text)
T = TypeVar("T")


@dataclass(frozen=True)
class Exchange:
    """One or more lines that follow each other: (speaker, text), the speaker may yet have to be cast."""

    topic: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Town:
    """Who lives here, how talkative they are, what they care about; hosts speak only for their topic."""

    hosts: tuple[str, ...]
    neighbours: tuple[str, ...]
    talk: Mapping[str, float]
    loves: Mapping[str, frozenset[str]]


def community() -> Community:
    """Return the town, the same one at each call: 100 people, 1,000 messages, 1,200 follows."""
    rng = Random(SEED)
    town = _town(rng)
    return Community(
        people=tuple(Person(name) for name in sorted(town.hosts + town.neighbours, key=str.lower)),
        messages=_messages(rng, town),
        follows=_follows(rng, town),
    )


def _town(rng: Random) -> Town:
    neighbours = NEIGHBOURS.split()
    talkers = rng.sample(neighbours, len(neighbours))
    talk = dict(zip(talkers, _long_tail(len(neighbours), SILENT, head=3), strict=True))
    return Town(
        hosts=tuple(topic.host for topic in TOPICS.values() if topic.host),
        neighbours=tuple(neighbours),
        talk=talk,
        loves={name: frozenset(rng.sample(list(TOPICS), rng.randint(2, 4))) for name in neighbours},
    )


def _long_tail(count: int, nothing: int, head: int) -> list[float]:
    """Return `count` falling weights, the last `nothing` of them zero; a larger `head` begins flatter."""
    return [1 / (rank + head) for rank in range(count - nothing)] + [0.0] * nothing


def _messages(rng: Random, town: Town) -> tuple[Message, ...]:
    exchanges = _exchanges(rng)
    taken: set[int] = set()
    said: set[str] = set()
    messages = []
    for exchange, start in zip(exchanges, _starts(rng, len(exchanges)), strict=True):
        ages = _ages(rng, start, taken)
        for author, body in _told(rng, town, exchange, said):
            messages.append(Message(author, body, timedelta(seconds=next(ages))))
    return tuple(sorted(messages, key=lambda message: message.age, reverse=True))


def _exchanges(rng: Random) -> list[Exchange]:
    """Return exchanges of MESSAGES lines in all, so ordered that a template comes back as late as it can."""
    once = [*_sayings(), *_conversations()]
    room = MESSAGES - sum(len(exchange.lines) for exchange in once)
    dealt: list[Exchange] = []
    for exchange in _dealt(rng):
        if room == 0:
            break
        dealt.append(Exchange(exchange.topic, exchange.lines[:room]))
        room -= len(dealt[-1].lines)
    placed = [(place + 0.5, exchange) for place, exchange in enumerate(dealt)]
    placed += [(rng.uniform(0, len(dealt)), exchange) for exchange in once]
    return [exchange for _, exchange in sorted(placed, key=lambda pair: pair[0])]


def _sayings() -> Iterator[Exchange]:
    for name, topic in TOPICS.items():
        for text in _texts(topic.sayings):
            signed = re.fullmatch(r"(\w+)> (.*)", text)
            yield Exchange(name, ((signed[1], signed[2]) if signed else ("a", text),))
        for text in _texts(topic.notices):
            if topic.host and "{" not in text:
                yield Exchange(name, ((topic.host, text),))


def _conversations() -> Iterator[Exchange]:
    for block in CONVERSATIONS.strip().split("\n\n"):
        pairs = (line.split(": ", 1) for line in _texts(block))
        yield Exchange("town", tuple((speaker, text) for speaker, text in pairs))


def _dealt(rng: Random) -> Iterator[Exchange]:
    """Deal templates, and notices with slots, without end: each once a round, some with an answer."""
    deck = [(name, "a", text) for name, topic in TOPICS.items() for text in _texts(topic.templates)]
    for name, topic in TOPICS.items():
        if topic.host:
            deck += [(name, topic.host, text) for text in _texts(topic.notices) if "{" in text]
    answers = {name: _round_and_round(rng, _texts(topic.replies)) for name, topic in TOPICS.items()}
    for name, speaker, text in _round_and_round(rng, deck):
        lines: tuple[Line, ...] = ((speaker, text),)
        if speaker == "a" and rng.random() < ANSWERED:
            lines += (("b", next(answers[name])),)
        yield Exchange(name, lines)


def _round_and_round(rng: Random, deck: list[T]) -> Iterator[T]:
    while True:
        yield from rng.sample(deck, len(deck))


def _texts(block: str) -> list[str]:
    """Return the texts of a block: one a line, continued by indented lines."""
    return block.strip().replace("\n  ", " ").splitlines()


def _starts(rng: Random, count: int) -> list[int]:
    """Return the ages in seconds at which exchanges begin, oldest first: more lately, and more by day."""
    starts = []
    for _ in range(count):
        days = 1 + int(SPAN * rng.random() ** 1.6)
        (hour,) = rng.choices(range(24), HOURS)
        hours_ago = days * 24 + NOW - hour if hour >= NOW else (days - 1) * 24 + NOW - hour
        starts.append(300 + hours_ago * 3600 - rng.randrange(3600))  # leaves the last one time for answers
    return sorted(starts, reverse=True)


def _ages(rng: Random, age: int, taken: set[int]) -> Iterator[int]:
    """Yield the ages of an exchange's lines from its start on, each younger than the last, none taken."""
    while True:
        while age in taken:
            age -= 1
        taken.add(age)
        yield age
        age -= min(40 + int(rng.expovariate(1 / 2400)), age // 2)  # answers come within the hour, as a rule


def _told(rng: Random, town: Town, exchange: Exchange, said: set[str]) -> list[tuple[str, str]]:
    """Return (author, body) for each line, cast and worded as nobody has said it yet; it is said from now on.

    Raises ValueError if that can't be done: a text stands above twice, or is too long.
    """
    for _ in range(100):
        cast = _cast(rng, town, exchange)
        told = [(cast[who], _filled(rng, town, text, cast, cast[who])) for who, text in exchange.lines]
        bodies = {body for _, body in told}
        new = len(bodies) == len(told) and said.isdisjoint(bodies)
        if new and all(len(body) <= LONGEST for body in bodies):
            said |= bodies
            return told
    raise ValueError(f"said before, or too long: {exchange.lines}")


def _cast(rng: Random, town: Town, exchange: Exchange) -> dict[str, str]:
    """Give every speaker of the exchange an account of its own: the named one, or a lover of the topic."""
    cast: dict[str, str] = {}
    for speaker, _ in exchange.lines:
        if len(speaker) > 1:  # an account's name
            cast[speaker] = speaker
        elif speaker not in cast:
            free = [name for name in town.neighbours if name not in cast.values()]
            keen = [town.talk[name] * (6 if exchange.topic in town.loves[name] else 1) for name in free]
            (cast[speaker],) = rng.choices(free, keen)
    return cast


def _filled(rng: Random, town: Town, text: str, cast: Mapping[str, str], author: str) -> str:
    used: set[str] = set()

    def phrase(slot: re.Match[str]) -> str:
        name = slot[1]
        if name == "friend":
            return rng.choice([friend for friend in town.neighbours if friend != author])
        if name in cast or name in town.hosts:
            return cast.get(name, name)
        chosen = rng.choice([phrase for phrase in SLOTS[name].split(" | ") if phrase not in used])
        used.add(chosen)
        begins = re.search(r"(^|[.!?] |¶)$", text[: slot.start()])
        return chosen[0].upper() + chosen[1:] if begins else chosen

    return re.sub(r"\{(\w+)\}", phrase, text).replace("¶", "\n")


def _follows(rng: Random, town: Town) -> tuple[tuple[str, str], ...]:
    """Return FOLLOWS pairs: the hosts and whoever talks much are followed most, a few people by nobody."""
    names = [*town.hosts, *town.neighbours]
    fame = {name: town.talk.get(name, 0.2) * rng.uniform(0.3, 3) for name in names}
    followed = sorted(names, key=lambda name: fame[name], reverse=True)
    followers = rng.sample(names, len(names))
    popular = _long_tail(len(names), UNFOLLOWED, head=8)
    curious = _long_tail(len(names), 0, head=8)
    pairs: dict[tuple[str, str], None] = {}  # a set that keeps its order
    while len(pairs) < FOLLOWS:
        (one,), (other,) = rng.choices(followers, curious), rng.choices(followed, popular)
        if one != other:
            pairs[one, other] = None
    return tuple(pairs)
