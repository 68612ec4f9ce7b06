//! Builds of one application that differ in the shape of a value.

use std::collections::BTreeMap;

use layered_session::{DefaultTier, SessionValue};
use serde::{Deserialize, Serialize};

use crate::support::{App, Browser, Node, first_write, get, set};

/// The value in the first build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cart {
    items: Vec<String>,
}

impl SessionValue for Cart {
    const NAME: &'static str = "cart";
}

fn cart(items: &[&str]) -> Cart {
    Cart { items: items.iter().map(|item| (*item).to_owned()).collect() }
}

/// The value in a later build with a new name of the type and the field, and another field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Basket {
    #[serde(alias = "items")]
    entries: Vec<String>,
    #[serde(default)]
    discount: u32,
}

impl SessionValue for Basket {
    const NAME: &'static str = Cart::NAME;
}

/// The value in a later build that counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
struct Counts {
    lines: BTreeMap<String, u32>,
}

impl SessionValue for Counts {
    const NAME: &'static str = Cart::NAME;
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Counted { lines: BTreeMap<String, u32> },
    Listed { items: Vec<String> },
}

impl From<Stored> for Counts {
    fn from(stored: Stored) -> Self {
        let mut counts = Self::default();
        match stored {
            Stored::Counted { lines } => counts.lines = lines,
            Stored::Listed { items } => items.into_iter().for_each(|item| *counts.lines.entry(item).or_default() += 1),
        }
        counts
    }
}

/// The value in a build without `#[serde(default)]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Careless {
    items: Vec<String>,
    discount: u32,
}

impl SessionValue for Careless {
    const NAME: &'static str = Cart::NAME;
}

/// The value in a build that renamed the value itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Trolley(BTreeMap<String, u32>);

impl SessionValue for Trolley {
    const NAME: &'static str = "trolley";
}

fn build<V: SessionValue>(app: &App) -> Node {
    Node::new(app.chain(DefaultTier::new()).value::<V>().build().unwrap())
}

/// A browser with two teas in the cart of the first build.
async fn shopper(app: &App) -> Browser {
    first_write(&build::<Cart>(app), cart(&["tea", "tea"])).await
}

#[tokio::test]
async fn renamed_field_keeps_value() {
    let app = App::new();
    let mut browser = shopper(&app).await;
    let later = build::<Basket>(&app);
    let teas = Basket { entries: cart(&["tea", "tea"]).items, discount: 0 };
    assert_eq!(get::<Basket>(&mut browser, &later).await, teas);
    let reduced =
        browser.visit(&later, async |session| session.update::<Basket>(|cart| cart.discount = 5).await.unwrap());
    assert_eq!(reduced.await, Basket { discount: 5, ..teas.clone() });

    // The first build can't read the new name of the field. The newer copy stays in the browser's cookie, unread.
    assert_eq!(get::<Cart>(&mut browser, &build::<Cart>(&app)).await, Cart::default());
    assert_eq!(get::<Basket>(&mut browser, &build::<Basket>(&app)).await, Basket { discount: 5, ..teas });
}

#[tokio::test]
async fn untagged_enum_reads_both_shapes() {
    let app = App::new();
    let mut browser = shopper(&app).await;
    for (node, count) in [(build::<Counts>(&app), 2), (build::<Counts>(&app), 3)] {
        assert_eq!(get::<Counts>(&mut browser, &node).await.lines["tea"], count);
        let more = async |session: layered_session::Session| {
            session.update::<Counts>(|counts| *counts.lines.entry("tea".to_owned()).or_default() += 1).await.unwrap();
        };
        browser.visit(&node, more).await;
    }
}

#[tokio::test]
async fn field_without_default_loses_copies() {
    let app = App::new();
    let (mut browser, careless) = (shopper(&app).await, build::<Careless>(&app));
    assert_eq!(get::<Careless>(&mut browser, &careless).await, Careless::default(), "a read skips the copy");
    assert_eq!(get::<Cart>(&mut browser, &build::<Cart>(&app)).await, cart(&["tea", "tea"]), "a read keeps the copy");
    browser.visit(&careless, async |session| session.update::<Careless>(|cart| cart.discount = 5).await.unwrap()).await;
    assert_eq!(get::<Cart>(&mut browser, &build::<Cart>(&app)).await, Cart::default(), "a write replaces the copy");
}

// The new wire name finds no copy, and the copy under the old wire name stays.
#[tokio::test]
async fn new_wire_name_leaves_old_copy() {
    let app = App::new();
    let (mut browser, later) = (shopper(&app).await, build::<Trolley>(&app));
    assert_eq!(get::<Trolley>(&mut browser, &later).await, Trolley::default());
    set(&mut browser, &later, Trolley(BTreeMap::from([("tea".to_owned(), 1)]))).await;
    assert_eq!(get::<Cart>(&mut browser, &build::<Cart>(&app)).await, cart(&["tea", "tea"]));
}
