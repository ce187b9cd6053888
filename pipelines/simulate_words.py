"""The words of the simulated marketplace: departments with their categories and attributes.

Plain data. Category names are unique over all departments.
"""

from __future__ import annotations

from typing import NamedTuple


class Department(NamedTuple):
    """One department: its leaf categories and the attribute values its items may have."""

    name: str
    categories: tuple[str, ...]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]
    styles: tuple[str, ...]
    features: tuple[str, ...]
    price: int  # typical price, whole currency units


def _list(text: str, separator: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator))


def _department(
    name: str, categories: str, materials: str, sizes: str, styles: str, features: str, price: int
) -> Department:
    return Department(name, _list(categories), _list(materials), _list(sizes), _list(styles), _list(features), price)


DEPARTMENTS: tuple[Department, ...] = (
    _department(
        "furniture",
        "sofa, office chair, dining table, bookcase, wardrobe, coffee table, bed frame, nightstand, "
        "bar stool, shoe rack",
        "oak, pine, walnut, metal, velvet, leather",
        "small, medium, large, extra large",
        "modern, rustic, industrial, scandinavian, vintage",
        "foldable, adjustable, with storage, stackable, easy assembly",
        180,
    ),
    _department(
        "kitchen",
        "frying pan, saucepan, chef knife, cutting board, electric kettle, toaster, stand mixer, "
        "espresso maker, food container, "
        "spice grinder",
        "stainless steel, cast iron, ceramic, bamboo, glass, aluminium",
        "small, medium, large, family size",
        "classic, modern, professional, retro",
        "non stick, dishwasher safe, induction ready, heat resistant, bpa free",
        45,
    ),
    _department(
        "bedding",
        "duvet cover, pillow, mattress topper, bed sheet, blanket, bedspread, pillowcase, "
        "mattress protector, quilt, throw",
        "cotton, linen, bamboo, microfibre, wool, satin",
        "single, double, queen, king",
        "plain, striped, floral, checked",
        "hypoallergenic, cooling, machine washable, quilted, weighted",
        40,
    ),
    _department(
        "lighting",
        "floor lamp, table lamp, ceiling light, pendant light, wall light, string lights, night light, "
        "light bulb, desk light, "
        "solar lantern",
        "brass, glass, paper, metal, wood, fabric",
        "small, medium, large",
        "modern, vintage, industrial, minimalist",
        "dimmable, remote controlled, motion sensor, rechargeable, warm white",
        35,
    ),
    _department(
        "womens clothing",
        "summer dress, blouse, skirt, cardigan, trench coat, leggings, jumpsuit, pyjamas, swimsuit, knit sweater",
        "cotton, linen, silk, wool, polyester, viscose",
        "xs, s, m, l, xl",
        "casual, elegant, bohemian, sporty",
        "sleeveless, long sleeve, high waist, v neck, plus size",
        38,
    ),
    _department(
        "mens clothing",
        "t-shirt, dress shirt, jeans, chinos, hoodie, bomber jacket, polo shirt, boxer shorts, suit, winter coat",
        "cotton, denim, linen, wool, polyester, fleece",
        "s, m, l, xl, xxl",
        "casual, formal, sporty, classic",
        "slim fit, regular fit, water resistant, long sleeve, stretch",
        42,
    ),
    _department(
        "shoes",
        "running shoes, sneakers, ankle boots, sandals, loafers, hiking boots, high heels, slippers, "
        "rain boots, football boots",
        "leather, suede, canvas, mesh, rubber, synthetic",
        "size 37, size 39, size 41, size 43, size 45",
        "casual, sporty, elegant, outdoor",
        "waterproof, lightweight, memory foam, wide fit, slip resistant",
        70,
    ),
    _department(
        "bags",
        "backpack, handbag, suitcase, tote bag, wallet, messenger bag, duffel bag, belt bag, toiletry bag, lunch bag",
        "leather, canvas, nylon, polyester, cork, felt",
        "mini, small, medium, large",
        "casual, business, travel, minimalist",
        "water resistant, with laptop compartment, anti theft, lockable, expandable",
        55,
    ),
    _department(
        "jewellery",
        "necklace, bracelet, earrings, ring, anklet, brooch, charm, cufflinks, pendant, hair clip",
        "gold, silver, rose gold, pearl, titanium, crystal",
        "small, medium, large",
        "classic, minimalist, vintage, bohemian",
        "engraved, adjustable, nickel free, handmade, gift boxed",
        48,
    ),
    _department(
        "beauty",
        "face cream, shampoo, lipstick, mascara, body lotion, perfume, nail polish, sunscreen, face mask, hair dryer",
        "aloe, argan oil, shea butter, charcoal, vitamin c, rose",
        "travel size, 50 ml, 100 ml, 250 ml, 500 ml",
        "natural, luxury, sensitive, vegan",
        "fragrance free, long lasting, moisturising, waterproof, anti ageing",
        18,
    ),
    _department(
        "toys",
        "building blocks, plush toy, toy car, dollhouse, board game, jigsaw, play kitchen, toy train, bath toy, kite",
        "wood, plastic, fabric, cardboard, foam, metal",
        "for toddlers, for ages 3-5, for ages 6-8, for ages 9-12",
        "educational, classic, colourful, montessori",
        "battery operated, magnetic, washable, musical, glow in the dark",
        25,
    ),
    _department(
        "baby",
        "stroller, baby carrier, high chair, changing table, baby bottle, pacifier, crib, diaper bag, "
        "baby monitor, playpen",
        "cotton, silicone, plastic, wood, aluminium, muslin",
        "newborn, 0-6 months, 6-12 months, 1-3 years",
        "classic, modern, animal print, pastel",
        "foldable, bpa free, machine washable, with wheels, height adjustable",
        60,
    ),
    _department(
        "sports",
        "yoga mat, dumbbell, resistance band, tennis racket, football, basketball, jump rope, "
        "exercise bike, swim goggles, "
        "boxing gloves",
        "rubber, steel, foam, carbon, nylon, leather",
        "junior, small, medium, large",
        "training, competition, beginner, home gym",
        "non slip, adjustable, lightweight, shock absorbing, anti fog",
        35,
    ),
    _department(
        "outdoor",
        "tent, sleeping bag, camping stove, headlamp, hiking poles, cool box, hammock, camping chair, "
        "water bottle, rope",
        "nylon, polyester, aluminium, steel, canvas, down",
        "1 person, 2 person, 4 person, 6 person",
        "ultralight, family, expedition, festival",
        "waterproof, foldable, insulated, windproof, compact",
        65,
    ),
    _department(
        "cycling",
        "mountain bike, city bike, bike helmet, bike lock, bike pump, cycling jersey, bike light, saddle, "
        "pannier, bike rack",
        "aluminium, carbon, steel, mesh, gel, nylon",
        "kids, small, medium, large",
        "road, trail, commuter, touring",
        "lightweight, reflective, rechargeable, quick release, weatherproof",
        75,
    ),
    _department(
        "garden",
        "garden hose, lawn mower, flower pot, garden bench, hedge trimmer, watering can, raised bed, "
        "barbecue, parasol, shed",
        "wood, steel, plastic, terracotta, rattan, zinc",
        "small, medium, large, extra large",
        "rustic, modern, cottage, mediterranean",
        "weatherproof, rustproof, cordless, self watering, foldable",
        70,
    ),
    _department(
        "tools",
        "cordless drill, circular saw, screwdriver set, hammer, tape measure, toolbox, sander, wrench, "
        "ladder, work light",
        "steel, aluminium, fibreglass, plastic, chrome vanadium, carbide",
        "12 v, 18 v, 20 v, 36 v",
        "professional, household, heavy duty, compact",
        "brushless, magnetic, with case, non slip grip, quick charge",
        80,
    ),
    _department(
        "computers",
        "gaming computer, ultrabook, tablet stand, mechanical keypad, computer mouse, computer display, "
        "graphics tablet, "
        "external drive, webcam cover, usb dock",
        "aluminium, plastic, glass, carbon, magnesium, silicone",
        "11 inch, 13 inch, 15 inch, 17 inch, 27 inch",
        "gaming, business, student, creator",
        "backlit, silent, ergonomic, usb c, low latency",
        150,
    ),
    _department(
        "phones",
        "mobile phone, phone cover, screen guard, charging cable, wireless charger, battery pack, "
        "car mount, selfie stick, "
        "phone strap, sim adapter",
        "silicone, leather, tempered glass, nylon, aluminium, plastic",
        "5.5 inch, 6.1 inch, 6.7 inch, universal",
        "slim, rugged, clear, sporty",
        "shockproof, fast charging, magnetic, waterproof, foldable",
        28,
    ),
    _department(
        "audio",
        "over-ear headset, wireless earplugs, soundbar, record player, studio microphone, party speaker, "
        "amplifier, dj mixer, "
        "clock radio, audio cord",
        "plastic, aluminium, wood, leather, fabric, steel",
        "mini, compact, full size, tower",
        "studio, retro, gaming, sport",
        "noise cancelling, bluetooth, waterproof, long battery, with microphone",
        90,
    ),
    _department(
        "photo",
        "mirrorless camera, action camera, camera backpack, tripod stand, ring light, photo album, "
        "lens cap, camera strap, "
        "instant camera, drone",
        "aluminium, carbon, nylon, leather, plastic, canvas",
        "mini, compact, standard, professional",
        "travel, studio, vlogging, vintage",
        "waterproof, lightweight, 4k, image stabilised, foldable",
        140,
    ),
    _department(
        "pets",
        "dog bed, cat tree, dog leash, pet carrier, litter box, dog food, cat toy, aquarium, bird cage, pet brush",
        "plush, cotton, nylon, sisal, plastic, steel",
        "small, medium, large, extra large",
        "cosy, classic, outdoor, natural",
        "washable, chew proof, adjustable, odour free, orthopaedic",
        32,
    ),
    _department(
        "office",
        "desk organiser, notebook paper, fountain pen, stapler, ring binder, whiteboard, paper shredder, "
        "document tray, "
        "planner, laminator",
        "metal, plastic, bamboo, leather, recycled paper, acrylic",
        "a3, a4, a5, a6",
        "classic, modern, minimalist, colourful",
        "refillable, magnetic, lockable, with lid, dotted",
        22,
    ),
    _department(
        "home care",
        "vacuum cleaner, steam mop, laundry basket, ironing board, trash can, air purifier, dehumidifier, "
        "broom, clothes rack, "
        "soap dispenser",
        "plastic, stainless steel, bamboo, fabric, aluminium, rattan",
        "compact, medium, large, extra large",
        "modern, classic, minimalist, sleek",
        "cordless, bagless, quiet, foldable, touchless",
        75,
    ),
)
COLOURS = _list(
    "black, white, grey, red, navy blue, light blue, green, olive, yellow, orange, pink, purple, brown, beige, "
    "turquoise, silver"
)
BRAND_STARTS = _list(
    "Nor Bel Kas Tor Vel Lum Har Zen Mar Fjo Ara Ost Pel Qui Ril Sel Tam Und Wes Yor Cal Dov Eld Gal",
    " ",
)
BRAND_ENDS = _list(
    "den ton vik mora lia wood field haus ique ora berg line stad ella craft nova",
    " ",
)
