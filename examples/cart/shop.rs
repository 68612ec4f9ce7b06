//! The products, and the cart: a value of the session.

use layered_session::{SessionValue, tier::BoxError};
use serde::{Deserialize, Serialize};

pub(crate) struct Product {
    pub(crate) id: u32,
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) cents: u32,
    /// The colour of the tea leaves, in degrees.
    pub(crate) hue: u16,
}

pub(crate) const PRODUCTS: [Product; 6] = [
    Product { id: 1, name: "Sencha Asatsuyu", about: "Green, steamed. Kagoshima, Japan", cents: 1_450, hue: 135 },
    Product { id: 2, name: "Darjeeling First Flush", about: "Black, spring picking. India", cents: 1_890, hue: 75 },
    Product { id: 3, name: "Tie Guan Yin", about: "Oolong, lightly rolled. Anxi, China", cents: 1_620, hue: 165 },
    Product { id: 4, name: "Bai Mu Dan", about: "White, two leaves and a bud. Fujian", cents: 1_280, hue: 100 },
    Product { id: 5, name: "Rooibos Cederberg", about: "Herbal, no caffeine. South Africa", cents: 790, hue: 35 },
    Product { id: 6, name: "Hibiscus & Rosehip", about: "Fruit, tart and red. Egypt", cents: 720, hue: 5 },
];

/// The maximum number of pieces of each product.
const MAX_PIECES: u32 = 99;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cart {
    items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    product_id: u32,
    quantity: u32,
}

impl Cart {
    pub(crate) fn add(&mut self, product_id: u32) {
        match self.items.iter_mut().find(|item| item.product_id == product_id) {
            Some(item) => item.quantity = item.quantity.saturating_add(1),
            None => self.items.push(Item { product_id, quantity: 1 }),
        }
    }

    /// Takes a single piece of the product out, and the product's line with the last piece.
    pub(crate) fn reduce(&mut self, product_id: u32) {
        if let Some(item) = self.items.iter_mut().find(|item| item.product_id == product_id) {
            item.quantity = item.quantity.saturating_sub(1);
        }
        self.items.retain(|item| item.quantity > 0);
    }

    pub(crate) fn remove(&mut self, product_id: u32) {
        self.items.retain(|item| item.product_id != product_id);
    }
}

impl SessionValue for Cart {
    const NAME: &'static str = "cart";

    fn validate(&self) -> Result<(), BoxError> {
        for (at, Item { product_id, quantity }) in self.items.iter().enumerate() {
            if !PRODUCTS.iter().any(|product| product.id == *product_id) {
                return Err(format!("there is no product {product_id}").into());
            }
            if !(1..=MAX_PIECES).contains(quantity) {
                return Err(format!("a cart holds 1 to {MAX_PIECES} of a product").into());
            }
            if self.items[..at].iter().any(|item| item.product_id == *product_id) {
                return Err(format!("product {product_id} is in the cart twice").into());
            }
        }
        Ok(())
    }
}
