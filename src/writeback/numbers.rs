//! The numbers that a page can't hold. JavaScript's numbers are doubles: a page would round the id 9007199254740993,
//! and send the id of another user back.

use super::body::outside_strings;

/// Returns the number literals of a JSON text that a reader with only doubles would change: integers beyond ±(2^53−1),
/// and numbers that no double holds (`1e999`).
///
/// An integer is a literal without a fraction and without an exponent: a type that writes a fraction or an exponent
/// means a double. `-0` is within bounds.
pub(crate) fn unsafe_numbers(raw: &str) -> impl Iterator<Item = &str> {
    let punctuation = |c: char| c.is_ascii_whitespace() || matches!(c, ',' | ':' | '[' | ']' | '{' | '}');
    outside_strings(raw).flat_map(move |part| part.split(punctuation)).filter(|literal| {
        let digits = literal.strip_prefix('-').unwrap_or(literal);
        let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_rounded = is_integer && !digits.parse().is_ok_and(|integer: u64| integer < 1 << 53);
        is_rounded || literal.parse().is_ok_and(f64::is_infinite)
    })
}

/// Whether the encoded value still has each unsafe integer of the client's text, digit for digit and as often. An `i64`
/// keeps 9007199254740993, an `f64` changes the number, and a type that skips the field loses the number.
pub(crate) fn integers_survive(raw: &str, encoded: &[u8]) -> bool {
    let mut sent: Vec<_> = unsafe_numbers(raw).collect();
    if sent.is_empty() {
        return true;
    }
    let Ok(encoded) = str::from_utf8(encoded) else { return false };
    let mut stored: Vec<_> = unsafe_numbers(encoded).collect();
    sent.sort_unstable();
    stored.sort_unstable();
    let mut stored = stored.into_iter();
    sent.into_iter().all(|sent| stored.any(|stored| stored == sent))
}

/// Whether a page reads each number of a value exactly as the server holds it.
pub(crate) fn is_exact_in_pages(json: &[u8]) -> bool {
    str::from_utf8(json).is_ok_and(|json| unsafe_numbers(json).next().is_none())
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize, de};
    use serde_json::{Value, from_str, to_vec};

    use super::*;

    #[test]
    fn lost_integer_precision_is_detected() {
        fn survives<T: Serialize + de::DeserializeOwned>(raw: &str) -> bool {
            integers_survive(raw, &to_vec(&from_str::<T>(raw).unwrap()).unwrap())
        }
        #[derive(Serialize, Deserialize)]
        struct Known {
            a: i64,
        }
        let text = r#"{"1,9007199254740993,":[9007199254740991,-9007199254740991,-0,1e300,9007199254740993.0],
            "\"":9007199254740993E0,"":["\\",-9007199254740992 ,9007199254740992,18446744073709551616,-1e999]}"#;
        let found: Vec<_> = unsafe_numbers(text).collect();
        assert_eq!(found, ["-9007199254740992", "9007199254740992", "18446744073709551616", "-1e999"]);
        assert!(survives::<i64>("9007199254740993") && survives::<i64>("-9007199254740993"));
        assert!(survives::<u64>("18446744073709551615") && !survives::<f64>("18446744073709551616"));
        assert!(!survives::<f64>("9007199254740993") && survives::<f64>("9007199254740991"));
        assert!(!survives::<f64>("9007199254740992"), "a double holds 2^53, but also the rounded 2^53 + 1");
        assert!(survives::<f64>("9007199254740993.0") && survives::<f64>("-0"));
        assert!(survives::<Value>(r#"{"b":9007199254740995,"a":[9007199254740997,9007199254740993]}"#), "in any order");
        assert!(!survives::<Known>(r#"{"a":1,"b":9007199254740993}"#), "an unknown field loses its number");
        assert!(
            !survives::<(f64, i64)>("[9007199254740993,9007199254740993]"),
            "the integer survives in a single place of two"
        );
        assert!(!integers_survive("9007199254740993", b"[\"9007199254740993\",9007199254740995]"));
    }
}
