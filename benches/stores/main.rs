//! Shared stores beside the bare clients of the same servers. `benches/README.md` explains the figures.

use layered_session::tier::BoxError;
use tokio::runtime::Builder;

mod bare;
mod file;
mod notices;
#[path = "../../tests/browser/port.rs"]
mod port;
mod proxy;
mod report;
/// The servers of the tests.
#[allow(clippy::unwrap_used, dead_code, reason = "the tests stop so, and use more")]
#[path = "../../tests/stores/redis/server.rs"]
mod server;
mod site;
mod space;
mod trips;
mod warm;
mod writes;

fn main() -> Result<(), BoxError> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [count, user, port] = &*arguments
        && count == warm::COUNT
    {
        return warm::count(user, port);
    }
    // `cargo test --benches` runs each bench once, without a measurement.
    let measures = arguments.iter().any(|argument| argument == "--bench");
    let (rounds, sessions) = if measures { (10_000, 10_000) } else { (20, 250) };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    match server::server() {
        Some(server) => {
            let port = server.port();
            runtime.block_on(writes::print(port, rounds))?;
            let threads = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            threads.block_on(writes::print(port, rounds))?;
            warm::print(port, rounds)?;
            notices::print(port, rounds / 2)?;
            runtime.block_on(trips::print(port))?;
            runtime.block_on(space::print(port, sessions))?;
        }
        None => println!("Redis is not measured: install `redis-server`"),
    }
    runtime.block_on(file::print(rounds))
}
