"""The wardrobe: an embedded synthetic fashion world with known ground truth."""

from fashiongen.wardrobe.difashion import write_ifashion, write_polyvore_u
from fashiongen.wardrobe.draw import render_item, render_item_mask
from fashiongen.wardrobe.dress_code import write_dress_code
from fashiongen.wardrobe.layouts import LAYOUTS_VERSION, LayoutWriter, writers, writes
from fashiongen.wardrobe.outfits import Outfit, User, compatible, make_outfit, make_user
from fashiongen.wardrobe.people import Person, make_person
from fashiongen.wardrobe.portrait import PersonImages, render_dressed, render_person
from fashiongen.wardrobe.street_tryon import write_street_tryon
from fashiongen.wardrobe.top_bottom import write_exp_reduced, write_fashion_taobao_tb, write_fashionvc
from fashiongen.wardrobe.viton_hd import write_viton_hd
from fashiongen.wardrobe.world import ATTRIBUTES, CATEGORIES, GARMENT_TYPE, NAMESPACES, WORLD_VERSION, Item, held_out, make_item

__all__ = [
    "ATTRIBUTES",
    "CATEGORIES",
    "GARMENT_TYPE",
    "LAYOUTS_VERSION",
    "NAMESPACES",
    "WORLD_VERSION",
    "Item",
    "LayoutWriter",
    "Outfit",
    "Person",
    "PersonImages",
    "User",
    "compatible",
    "held_out",
    "make_item",
    "make_outfit",
    "make_person",
    "make_user",
    "render_dressed",
    "render_item",
    "render_item_mask",
    "render_person",
    "write_dress_code",
    "write_exp_reduced",
    "write_fashion_taobao_tb",
    "write_fashionvc",
    "write_ifashion",
    "write_polyvore_u",
    "write_street_tryon",
    "write_viton_hd",
    "writers",
    "writes",
]
