//! Tables, in Markdown.

use crate::peer::Peer;

/// One number for each peer in each column; `NAN` where there is none.
pub struct Table<'a> {
    pub title: &'a str,
    pub columns: &'a [&'a str],
    pub rows: Vec<(Peer, Vec<f64>)>,
}

impl Table<'_> {
    pub fn print(&self, digits: usize) {
        print!("\n| {:<38} |", self.title);
        self.columns.iter().for_each(|column| print!(" {column:>10} |"));
        print!("\n|{:-<40}|", "");
        self.columns.iter().for_each(|_| print!("{:->11}:|", ""));
        println!();
        for (peer, numbers) in &self.rows {
            print!("| {:<38} |", peer.name());
            for number in numbers {
                let cell = if number.is_finite() { format!("{number:.digits$}") } else { "–".to_owned() };
                print!(" {cell:>10} |");
            }
            println!();
        }
    }

    /// Returns each number less the bare service's number.
    pub fn above_bare<'a>(&self, title: &'a str, columns: &'a [&'a str]) -> Table<'a> {
        self.beside(Peer::Bare, title, columns, |number, bare| number - bare)
    }

    /// Returns each number as a share of the number of tower-sessions with its MemoryStore.
    pub fn shares<'a>(&self, title: &'a str, columns: &'a [&'a str]) -> Table<'a> {
        self.beside(Peer::TowerSessions, title, columns, |number, theirs| number / theirs)
    }

    fn beside<'a>(
        &self,
        one: Peer,
        title: &'a str,
        columns: &'a [&'a str],
        compare: impl Fn(f64, f64) -> f64,
    ) -> Table<'a> {
        let (_, against) = self.rows.iter().find(|(peer, _)| *peer == one).expect("a row of the peer to compare with");
        let compared = |numbers: &Vec<f64>| numbers.iter().zip(against).map(|(a, b)| compare(*a, *b)).collect();
        let others = self.rows.iter().filter(|(peer, _)| *peer != Peer::Bare);
        Table { title, columns, rows: others.map(|(peer, numbers)| (*peer, compared(numbers))).collect() }
    }
}

pub fn median(numbers: Vec<f64>) -> f64 {
    quantile(numbers, 0.5)
}

/// Returns a quantile: the number below which the given part of the numbers lies.
pub fn quantile(mut numbers: Vec<f64>, part: f64) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get((numbers.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}
