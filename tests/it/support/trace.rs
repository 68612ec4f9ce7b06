//! The traces of a test, and the spellings of a secret in a trace or any other text.

use std::{
    fmt, io,
    sync::{Arc, Mutex, Once},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tracing::{Level, subscriber::DefaultGuard};

/// All traces of this thread, as text.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Vec<u8>>>);

impl Trace {
    /// Begins to collect traces. The guard ends the collection.
    pub(crate) fn begin() -> (Self, DefaultGuard) {
        // If a thread without a subscriber reaches a callsite first, tracing disables the callsite for all threads. The
        // global subscriber prevents this.
        static EVERYWHERE: Once = Once::new();
        EVERYWHERE.call_once(|| {
            let sink = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(io::sink).finish();
            tracing::subscriber::set_global_default(sink).expect("no other test sets a global subscriber");
        });
        let trace = Self::default();
        let to = trace.clone();
        let everything = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_ansi(false);
        let subscriber = everything.with_writer(move || to.clone()).finish();
        (trace, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(crate) fn lines_with(&self, text: &str) -> usize {
        self.text().lines().filter(|line| line.contains(text)).count()
    }

    /// Adds the debug texts of a value to the traces.
    pub(crate) fn show(&self, shown: &impl fmt::Debug) {
        self.0.lock().unwrap().extend(format!("{shown:?}\n{shown:#?}\n").bytes());
    }
}

impl io::Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The spellings of bytes in a text, whole and in part, from each place of the bytes on.
pub(crate) fn spellings(bytes: &[u8]) -> Vec<String> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{:?}", &bytes[..8]);
    let list = &list[1..list.len() - 1];
    let base64 = (0..3).map(|from| URL_SAFE_NO_PAD.encode(&bytes[from..from + 12]));
    base64.chain([hex[..16].to_owned(), hex[..16].to_uppercase(), list.to_owned(), list.replace(' ', "")]).collect()
}
