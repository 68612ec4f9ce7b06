//! [`Json`]: the bytes of one value, where most values are a number, a word or a flag.

use std::{cmp::Ordering, fmt, io, ops::Deref, sync::Arc};

/// JSON bytes: short ones in place, long ones shared.
///
/// A session that holds one integer takes 64 bytes less for it than with the bytes on the heap, and a read copies it
/// out of its record without a counter that other readers count on too.
#[derive(Clone)]
pub(crate) enum Json {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<[u8]>),
}

/// What fits beside the length, so that both forms take 24 bytes. An `i64` has 20 characters at most.
const SHORT: usize = 22;

impl Json {
    /// What `write` writes, on the heap only if it is long.
    ///
    /// # Errors
    ///
    /// Those of `write`: there always is room.
    pub(crate) fn written<E>(write: impl FnOnce(&mut JsonWriter) -> Result<(), E>) -> Result<Self, E> {
        let mut pen = JsonWriter { short: [0; SHORT], len: 0, long: Vec::new() };
        write(&mut pen)?;
        Ok(pen.finish())
    }

    /// Bytes on the heap, with the counters before them.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(bytes) => bytes.len() + 2 * size_of::<usize>(),
        }
    }
}

impl From<&[u8]> for Json {
    fn from(json: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..json.len()) {
            Some(place) => {
                place.copy_from_slice(json);
                Self::Short { len: json.len() as u8, bytes }
            }
            None => Self::Long(json.into()),
        }
    }
}

impl Deref for Json {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Json {}

impl PartialOrd for Json {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Json {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// Never the bytes: they are the application's.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.len())
    }
}

/// Takes what is written: in place while it is short.
pub(crate) struct JsonWriter {
    short: [u8; SHORT],
    len: usize,
    /// All of it, once it is more than short.
    long: Vec<u8>,
}

impl JsonWriter {
    fn finish(self) -> Json {
        match self.long.is_empty() {
            true => Json::Short { len: self.len as u8, bytes: self.short },
            false => Json::Long(self.long.into()),
        }
    }
}

impl io::Write for JsonWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len();
        match self.short.get_mut(self.len..end) {
            Some(place) if self.long.is_empty() => {
                place.copy_from_slice(bytes);
                self.len = end;
            }
            _ => {
                if self.long.is_empty() {
                    self.long.extend_from_slice(&self.short[..self.len]);
                }
                self.long.extend_from_slice(bytes);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn whatever_the_length_and_the_pieces_the_bytes_are_the_same() {
        let text: Vec<u8> = (b'a'..=b'z').cycle().take(3 * SHORT).collect();
        for len in 0..=text.len() {
            let whole = Json::from(&text[..len]);
            assert_eq!(*whole, text[..len]);
            assert_eq!(whole.heap_bytes() == 0, len <= SHORT);
            for piece in 1..=len {
                let write = |pen: &mut JsonWriter| text[..len].chunks(piece).try_for_each(|piece| pen.write_all(piece));
                let pieces = Json::written(write).unwrap();
                assert_eq!((&*pieces, pieces.heap_bytes()), (&*whole, whole.heap_bytes()));
            }
        }
        assert_eq!(size_of::<Option<Json>>(), 24);
    }

    #[test]
    fn the_order_is_that_of_the_bytes() {
        let texts: Vec<Json> = [&b""[..], b"1", b"10", &[b'1'; 40], &[b'2'; 30]].map(Json::from).into();
        assert!(texts.is_sorted() && texts[1] != texts[2]);
    }
}
