//! A proxy before the server, which keeps the bytes of the calls and counts the round trips.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

/// The words of a call, as the server gets them.
pub(crate) type Call = Vec<Vec<u8>>;

/// A proxy on a port of its own. The threads run until the end of the process.
pub(crate) struct Proxy {
    port: u16,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    sent: Vec<u8>,
    trips: usize,
    /// Whether calls wait for the server's answer.
    is_waiting: bool,
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    pub(crate) fn start(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, log) = (listener.local_addr()?.port(), Arc::<Mutex<Log>>::default());
        let proxy = Self { port, log: Arc::clone(&log) };
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if connect(client, server, &log).is_err() {
                    return;
                }
            }
        });
        Ok(proxy)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the round trips and the calls since the last `take`. Calls that a client sends without waiting for an
    /// answer are one round trip.
    pub(crate) fn take(&self) -> (usize, Vec<Call>) {
        let Log { sent, trips, .. } = std::mem::take(&mut *lock(&self.log));
        (trips, calls(&sent))
    }
}

fn connect(client: TcpStream, server: u16, log: &Arc<Mutex<Log>>) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (from_client, from_server) = ((client.try_clone()?, server.try_clone()?), (server, client));
    let (sent, answered) = (Arc::clone(log), Arc::clone(log));
    thread::spawn(move || {
        forward(from_client, |bytes| {
            let mut log = lock(&sent);
            log.trips += usize::from(!log.is_waiting);
            log.is_waiting = true;
            log.sent.extend_from_slice(bytes);
        })
    });
    thread::spawn(move || forward(from_server, |_| lock(&answered).is_waiting = false));
    Ok(())
}

/// Copies bytes from a stream to another stream. Each piece is noted before it is sent.
fn forward((mut from, mut to): (TcpStream, TcpStream), note: impl Fn(&[u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        note(&buffer[..read]);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    // Fails if the other side has closed the stream before.
    let _ = to.shutdown(Shutdown::Write);
}

/// Splits the bytes of a client into calls: lists of words, each with the length before.
fn calls(mut sent: &[u8]) -> Vec<Call> {
    let mut calls = Vec::new();
    while let Some(words) = length(&mut sent) {
        calls.push((0..words).map(|_| word(&mut sent)).collect());
    }
    calls
}

/// Takes a line such as `*3` or `$12`, and returns the number.
fn length(rest: &mut &[u8]) -> Option<usize> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    let number = str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
    *rest = &rest[end + 2..];
    Some(number)
}

fn word(rest: &mut &[u8]) -> Vec<u8> {
    let length = length(rest).expect("the length of a word");
    let word = rest[..length].to_vec();
    *rest = &rest[length + 2..];
    word
}
