//! The example `division` under load from another process, with the layer and without: the cost of the layer beside
//! sockets, a runtime and the rendering of a page. Needs `wrk`, two free cores, and `taskset`, which gives the server
//! one core and `wrk` the other: on shared cores server and `wrk` disturb each other by more than the layer costs.

// The bench serves only the pages of the example, so parts of these modules are unused.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../../examples/division/page.rs"]
mod page;
#[path = "../../../../examples/division/sample.rs"]
mod sample;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../../examples/site"]
mod site {
    pub(crate) mod html;
}
#[path = "../../../../examples/division/values.rs"]
mod values;
#[path = "../../../../examples/division/views.rs"]
mod views;

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request},
    response::IntoResponse,
    routing::get,
};
use layered_session::{
    BuildError, CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Principal, Session, Sessions,
    testing::set_cookies,
};
use tokio::net::TcpListener;
use tower::ServiceExt;

use crate::{
    values::{CurrentUser, Division},
    views::View,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The comparison: for each kind of visitor, the page without the layer and with the layer.
const VISITORS: [&str; 2] = ["new", "returning"];
const APPS: [&str; 2] = ["bare", "layered"];

/// Turns of a few seconds, so that other load of the machine slows both applications alike.
const TURNS: usize = 11;
const SECONDS: u32 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [app] => tokio::runtime::Runtime::new()?.block_on(serve(app)),
        _ => compare(),
    }
}

fn compare() -> Result<(), Box<dyn Error>> {
    let servers = APPS.map(Server::start).into_iter().collect::<Result<Vec<_>, _>>()?;
    println!(
        "| visitors | without the layer, requests/s | with the layer | ratio | lowest to highest | ratio of the best turns |"
    );
    println!("|---|--:|--:|--:|--:|--:|");
    for visitor in VISITORS {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            for (rates, server) in rates.iter_mut().zip(&servers) {
                rates.push(server.load(visitor)?);
            }
        }
        let [bare, layered] = rates;
        // The ratio of neighbouring turns: a slow machine slows both.
        let mut ratios: Vec<_> = bare.iter().zip(&layered).map(|(bare, layered)| layered / bare).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let (lowest, ratio, highest) = (ratios[0], ratios[TURNS / 2], ratios[TURNS - 1]);
        // The least disturbed turn of each application.
        let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let of_best = best(&layered) / best(&bare);
        let (bare, layered) = (median(bare), median(layered));
        println!("| {visitor} | {bare:.0} | {layered:.0} | {ratio:.3} | {lowest:.3} to {highest:.3} | {of_best:.3} |");
    }
    Ok(())
}

/// A program that runs on one core.
fn pinned(core: &str, program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", core, program]);
    command
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

struct Server {
    process: Child,
    address: String,
    /// The `Cookie` header of a returning visitor.
    cookie: String,
}

impl Server {
    fn start(app: &str) -> Result<Self, Box<dyn Error>> {
        let process = pinned("0", &env::current_exe()?.to_string_lossy()).arg(app).stdout(Stdio::piped()).spawn()?;
        // Constructed before the server prints, so that an error below also ends the process.
        let mut server = Self { process, address: String::new(), cookie: String::new() };
        let output = server.process.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(output).lines();
        let mut line = || lines.next().ok_or("the server ended")?.map_err(Box::<dyn Error>::from);
        (server.address, server.cookie) = (line()?, line()?);
        Ok(server)
    }

    /// Returns the requests per second that `wrk` counts.
    fn load(&self, visitor: &str) -> Result<f64, Box<dyn Error>> {
        let mut wrk = pinned("1", "wrk");
        wrk.args(["--threads", "1", "--connections", "16", "--duration", &format!("{SECONDS}s")]);
        if visitor == "returning" {
            wrk.args(["--header", &format!("Cookie: theme=dark; {}", self.cookie)]);
        }
        let output = wrk.arg(&self.address).output()?;
        let text = String::from_utf8(output.stdout)?;
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(format!("some requests failed:\n{text}").into());
        }
        let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).ok_or("no rate")?;
        Ok(rate.trim().parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Serves until killed. Prints the address, and the cookie of a visitor with a chosen division.
async fn serve(app: &str) -> Result<(), Box<dyn Error>> {
    let routes = match app {
        "layered" => Router::new()
            .route("/", get(home))
            .route("/choose", get(choose))
            .layer(LayeredSessionLayer::new(sessions()?)),
        _ => Router::new().route("/", get(constant)).route("/choose", get(constant)),
    };
    let chosen = routes.clone().oneshot(Request::get("/choose").body(Body::empty())?).await?;
    let set = set_cookies(chosen.headers());
    let cookie = set.first().map_or_else(|| "none=0".to_owned(), |cookie| cookie.stripped().to_string());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("http://{}/", listener.local_addr()?);
    println!("{cookie}");
    Ok(axum::serve(listener, routes).await?)
}

/// The example's configuration of sessions.
fn sessions() -> Result<Sessions, BuildError> {
    Sessions::builder()
        .tier(MemoryTier::builder().max_bytes(64 << 20).build())
        .tier(CookieTier::sealed(KeyRing::generate()?).name("session").plain_http())
        .value::<CurrentUser>()
        .value::<Division>()
        .identify_by::<CurrentUser>(|user| Some(Principal::new(&user.name)))
        .idle(31 * DAY)
        .absolute(365 * DAY)
        .build()
}

async fn home(session: Session) -> impl IntoResponse {
    page::page(&session, View::Home, "")
}

async fn choose(session: Session) -> impl IntoResponse {
    session.set(Division(3)).await.map_err(|error| error.to_string())
}

/// Serves the same pages with the values that the visitor's session would have.
async fn constant(headers: HeaderMap) -> impl IntoResponse {
    let (division, tier) =
        if !headers.contains_key("cookie") { (Division::ALL, "default") } else { (Division(3), "memory") };
    page::render(View::Home, division, None, tier, "")
}
