//! [`Json`]: the JSON bytes of one value, and how a type decodes and encodes them.

use std::{fmt, ops::Deref, sync::Arc};

use serde::Serialize;
use smallvec::SmallVec;

use super::{SessionValue, ValueError};

/// JSON bytes: short bytes in place, long bytes shared. Most values are a number, a word or a flag.
///
/// A session with one integer takes 64 bytes less than with the bytes on the heap, and a read copies the integer out of
/// the record without a reference count that all readers change. The length alone decides the form, and the unused
/// bytes of the short form are zero, so the derived equality compares exactly the JSON bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Json {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<[u8]>),
}

/// The maximum bytes of the short form: with the length, both forms take 24 bytes. An `i64` has 20 characters at most.
const SHORT: usize = 22;

impl Json {
    /// Encodes a value. A short text needs no heap allocation.
    pub(crate) fn encode(value: &impl Serialize) -> serde_json::Result<Self> {
        let mut text = SmallVec::<[u8; SHORT]>::new();
        serde_json::to_writer(&mut text, value)?;
        Ok(Self::from(&*text))
    }

    /// Returns the bytes on the heap, with the two reference counts.
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

/// Prints the length alone: the bytes are the application's, and may be secret.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.len())
    }
}

pub(crate) fn decode<V: SessionValue>(json: &[u8]) -> Result<V, ValueError> {
    let value: V = serde_json::from_slice(json).map_err(ValueError::Undecodable)?;
    value.validate().map_err(ValueError::Invalid)?;
    Ok(value)
}

/// Encodes a valid value. The returned bytes decode to a valid value again.
pub(crate) fn encode<V: SessionValue>(value: &V) -> Result<Json, ValueError> {
    value.validate().map_err(ValueError::Invalid)?;
    encode_valid(value, None)
}

/// Decodes bytes, and encodes the value again. Returns the bytes that the type itself would write.
pub(super) fn normalize<V: SessionValue>(json: &[u8]) -> Result<Json, ValueError> {
    encode_valid(&decode::<V>(json)?, Some(json))
}

/// Encodes a value that has passed `validate`. The bytes are decoded again unless they equal the bytes `decoded`, which
/// have just been decoded: the same bytes give the same value.
fn encode_valid<V: SessionValue>(value: &V, decoded: Option<&[u8]>) -> Result<Json, ValueError> {
    let json = Json::encode(value).map_err(ValueError::Unencodable)?;
    if decoded != Some(&*json) {
        decode::<V>(&json).map_err(|flaw| match flaw {
            ValueError::Undecodable(error) => ValueError::NotRoundTrip(error),
            flaw => flaw,
        })?;
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde::Deserialize;

    use super::*;
    use crate::error::BoxError;

    #[test]
    fn json_keeps_bytes_at_every_length() {
        for len in 2..3 * SHORT {
            let text = "x".repeat(len - 2);
            let (encoded, bytes) = (Json::encode(&text).unwrap(), format!("\"{text}\""));
            assert_eq!((&*encoded, &encoded), (bytes.as_bytes(), &Json::from(bytes.as_bytes())));
            assert_eq!(encoded.heap_bytes() == 0, len <= SHORT);
        }
        assert_eq!(size_of::<Option<Json>>(), 24);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Ratio(f64);
    impl SessionValue for Ratio {
        const NAME: &'static str = "ratio";
    }

    #[test]
    fn encode_refuses_undecodable_json() {
        assert!(matches!(encode(&Ratio(f64::NAN)), Err(ValueError::NotRoundTrip(_))));
        assert_eq!(decode::<Ratio>(&encode(&Ratio(0.1)).unwrap()).unwrap(), Ratio(0.1));
    }

    static DECODED: AtomicUsize = AtomicUsize::new(0);

    /// A number whose `validate` counts the decodings.
    #[derive(Serialize, Deserialize)]
    struct Counted(u8);
    impl SessionValue for Counted {
        const NAME: &'static str = "counted";
        fn validate(&self) -> Result<(), BoxError> {
            DECODED.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn canonical_json_is_decoded_once() {
        for (json, decodings) in [("7", 1), (" 7", 2)] {
            DECODED.store(0, Ordering::Relaxed);
            assert_eq!(*normalize::<Counted>(json.as_bytes()).unwrap(), *b"7");
            assert_eq!(DECODED.load(Ordering::Relaxed), decodings, "{json:?}");
        }
    }

    /// A type whose own JSON does not decode again.
    #[derive(Clone, Serialize, Deserialize)]
    #[serde(into = "Vec<u8>")]
    struct OneWay(u8);
    impl From<OneWay> for Vec<u8> {
        fn from(OneWay(number): OneWay) -> Self {
            vec![number, number]
        }
    }
    impl SessionValue for OneWay {
        const NAME: &'static str = "one_way";
    }

    #[test]
    fn rewritten_json_must_decode_again() {
        assert!(matches!(normalize::<OneWay>(b"7"), Err(ValueError::NotRoundTrip(_))));
    }

    #[test]
    fn value_error_hides_the_input() {
        let error = decode::<Ratio>(br#""canary""#).unwrap_err();
        assert_eq!(error.to_string(), "is not of the declared type (at column 8)");
        assert!(error.into_source().is_none());
    }

    #[derive(Serialize, Deserialize)]
    #[serde(try_from = "u8")]
    struct Even(u8);
    impl TryFrom<u8> for Even {
        type Error = &'static str;
        fn try_from(number: u8) -> Result<Self, &'static str> {
            if number.is_multiple_of(2) { Ok(Self(number)) } else { Err("odd") }
        }
    }
    impl SessionValue for Even {
        const NAME: &'static str = "even";
    }

    #[test]
    fn value_error_names_known_places() {
        let place = |error: ValueError| error.to_string().replace("is not of the declared type", "");
        assert_eq!(place(decode::<Even>(b"3").err().unwrap()), "");
        assert_eq!(place(decode::<Even>(b"[").err().unwrap()), "");
        assert_eq!(place(decode::<Even>(b"\"x\"").err().unwrap()), " (at column 3)");
        assert_eq!(place(decode::<Ratio>(b"\n\n x").unwrap_err()), " (at line 3, column 2)");
    }
}
