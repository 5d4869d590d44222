//! Trace context in requests: who traces, and under which name the next hop finds the span that it belongs to.
//!
//! Sources: W3C Trace Context (`traceparent`), OpenCensus binary (`grpc-trace-bin`), B3 (`x-b3-*`).

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const GRPC_TRACE: HeaderName = HeaderName::from_static("grpc-trace-bin");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// The identifier of a span: not zero.
pub(crate) type SpanId = [u8; 8];

/// What a request says of the trace it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: [u8; 16],
    /// The span of the last hop.
    pub(crate) parent: SpanId,
    pub(crate) is_sampled: bool,
    form: Form,
}

/// In which headers it came: so it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// With the flags as they came.
    Traceparent(u8),
    GrpcTrace,
    B3,
}

/// The context of a request, if it has one that can be read. Looked for in this order: `traceparent`,
/// `grpc-trace-bin`, `x-b3-traceid`.
pub(crate) fn extract(headers: &HeaderMap) -> Option<Context> {
    traceparent(headers)
        .or_else(|| grpc_trace(headers))
        .or_else(|| b3(headers))
}

/// Names `span`, which belongs to `parent`, as the one that the next hop belongs to, in the headers that the context came
/// in.
pub(crate) fn inject(headers: &mut HeaderMap, context: &Context, parent: SpanId, span: SpanId) {
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    match context.form {
        Form::Traceparent(flags) => {
            let value = format!("00-{}-{}-{flags:02x}", hex(&context.trace), hex(&span));
            set(TRACEPARENT, value);
        }
        Form::GrpcTrace => {
            let mut bytes = vec![0, 0];
            bytes.extend(context.trace);
            bytes.push(1);
            bytes.extend(span);
            bytes.extend([2, u8::from(context.is_sampled)]);
            set(GRPC_TRACE, base64(&bytes));
        }
        Form::B3 => {
            set(B3_SPAN, hex(&span));
            set(B3_PARENT, hex(&parent));
        }
    }
}

/// `00-{trace}-{span}-{flags}`; a later version is read as far as this one goes (§3.2 of the recommendation).
fn traceparent(headers: &HeaderMap) -> Option<Context> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut parts = value.split('-');
    let version = unhex::<1>(parts.next()?)?;
    let trace = unhex::<16>(parts.next()?)?;
    let parent = unhex::<8>(parts.next()?)?;
    let [flags] = unhex::<1>(parts.next()?)?;
    let has_more = parts.next().is_some();
    if version == [0xff] || (version == [0] && has_more) || is_zero(&trace) || is_zero(&parent) {
        return None;
    }
    Some(Context {
        trace,
        parent,
        is_sampled: flags & 1 == 1,
        form: Form::Traceparent(flags),
    })
}

/// Version 0, then fields by number: 0 the trace, 1 the span, 2 the options.
fn grpc_trace(headers: &HeaderMap) -> Option<Context> {
    let bytes = unbase64(headers.get(GRPC_TRACE)?.as_bytes())?;
    let (&[version], mut rest) = bytes.split_first_chunk::<1>()?;
    if version != 0 {
        return None;
    }
    let (mut trace, mut parent, mut is_sampled) = (None, None, false);
    while let Some((field, tail)) = rest.split_first() {
        rest = match field {
            0 => {
                let (value, tail) = tail.split_first_chunk::<16>()?;
                trace = Some(*value);
                tail
            }
            1 => {
                let (value, tail) = tail.split_first_chunk::<8>()?;
                parent = Some(*value);
                tail
            }
            2 => {
                let (&[options], tail) = tail.split_first_chunk::<1>()?;
                is_sampled = options & 1 == 1;
                tail
            }
            // What this version does not know comes last.
            _ => break,
        };
    }
    let (trace, parent) = (trace?, parent?);
    (!is_zero(&trace)).then_some(Context {
        trace,
        parent,
        is_sampled,
        form: Form::GrpcTrace,
    })
}

fn b3(headers: &HeaderMap) -> Option<Context> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    let id = text(B3_TRACE)?;
    let trace = unhex::<16>(&format!("{id:0>32}"))?;
    let parent = unhex::<8>(&format!("{:0>16}", text(B3_SPAN)?))?;
    if is_zero(&trace) {
        return None;
    }
    Some(Context {
        trace,
        parent,
        is_sampled: matches!(text(B3_SAMPLED), Some("1" | "true" | "d")),
        form: Form::B3,
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Without padding, as gRPC sends binary headers.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0u8; 3];
        for (to, from) in group.iter_mut().zip(chunk) {
            *to = *from;
        }
        let [a, b, c] = group.map(u32::from);
        let bits = a << 16 | b << 8 | c;
        for at in 0..=chunk.len() {
            let digit = bits >> (18 - 6 * at) & 63;
            let digit = usize::try_from(digit).ok().and_then(|at| DIGITS.get(at));
            text.push(char::from(digit.copied().unwrap_or(b'A')));
        }
    }
    text
}

fn unbase64(text: &[u8]) -> Option<Vec<u8>> {
    /// Longer than any context that is understood.
    const MAX: usize = 256;
    let text = text.trim_ascii_end();
    if text.len() > MAX {
        return None;
    }
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.iter().take_while(|digit| **digit != b'=') {
        let value = DIGITS.iter().position(|known| known == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_context_goes_on_in_the_form_in_which_it_came() {
        let span = [1, 2, 3, 4, 5, 6, 7, 8];
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let mut map = headers(&[("traceparent", &parent), ("x-b3-traceid", "1")]);
        let context = extract(&map).unwrap();
        assert!(context.is_sampled);
        assert_eq!(hex(&context.parent), "00f067aa0ba902b7");
        inject(&mut map, &context, context.parent, span);
        let want = format!("00-{TRACE}-0102030405060708-01");
        assert_eq!(map["traceparent"], want.as_str());
        assert_eq!(map["x-b3-traceid"], "1");

        let mut map = headers(&[
            ("x-b3-traceid", "a3ce929d0e0e4736"),
            ("x-b3-spanid", "b7"),
            ("x-b3-sampled", "0"),
        ]);
        let context = extract(&map).unwrap();
        assert!(!context.is_sampled);
        inject(&mut map, &context, context.parent, span);
        assert_eq!(map["x-b3-traceid"], "a3ce929d0e0e4736");
        assert_eq!(map["x-b3-spanid"], "0102030405060708");
        assert_eq!(map["x-b3-parentspanid"], "00000000000000b7");

        let mut bytes = vec![0, 0];
        bytes.extend([7; 16]);
        bytes.push(1);
        bytes.extend([9; 8]);
        bytes.extend([2, 1]);
        let mut map = headers(&[("grpc-trace-bin", &base64(&bytes))]);
        let context = extract(&map).unwrap();
        assert_eq!((context.trace, context.parent), ([7; 16], [9; 8]));
        inject(&mut map, &context, context.parent, span);
        let again = extract(&map).unwrap();
        assert_eq!((again.parent, again.is_sampled), (span, true));
    }

    #[test]
    fn what_is_no_context_is_none() {
        let zero = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let later = format!("00-{TRACE}-00f067aa0ba902b7-01-more");
        for (name, value) in [
            ("traceparent", zero.as_str()),
            ("traceparent", later.as_str()),
            ("traceparent", "00-xyz"),
            (
                "traceparent",
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
            ("grpc-trace-bin", "AA"),
            ("grpc-trace-bin", "!!!!"),
            ("x-b3-traceid", "zz"),
            ("x-b3-traceid", TRACE),
        ] {
            assert_eq!(extract(&headers(&[(name, value)])), None, "{name}: {value}");
        }
    }
}
