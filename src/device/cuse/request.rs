//! Bytes from /dev/cuse to a [`Request`], and replies to bytes.

use crate::uapi::fuse::{
    self, CuseInitIn, InHeader, InterruptIn, IoctlIn, OpenIn, OutHeader, PollIn, ReleaseIn,
};

/// A request, as the kernel sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The envelope.
    pub header: InHeader,
    /// What is in it.
    pub body: Body<'a>,
}

/// The kinds of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// CUSE_INIT, the first one.
    Init(CuseInitIn),
    /// open(2).
    Open(OpenIn),
    /// The last close(2).
    Release(ReleaseIn),
    /// ioctl(2), with the bytes copied in.
    Ioctl(IoctlIn, &'a [u8]),
    /// poll(2) and its kin.
    Poll(PollIn),
    /// The caller of another request got a signal.
    Interrupt(InterruptIn),
    /// read(2) or write(2), which neither a heap nor a dma-buf has.
    Stream,
    /// An opcode that a character device does not get.
    Unknown,
    /// A known opcode with too few bytes.
    Short,
}

/// What is not a request at all; the channel can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than a header.
    #[error(
        "the kernel sent {0} bytes where a FUSE request has a header of 40: is this /dev/cuse?"
    )]
    NoHeader(usize),
    /// The header's length is not that of the message.
    #[error("the kernel sent a request of {got} bytes that says it has {said}")]
    Length {
        /// Bytes there are.
        got: usize,
        /// Bytes there should be.
        said: u32,
    },
}

/// Reads one request.
///
/// # Errors
/// [`WireError`] if there is no envelope to answer to.
pub fn parse(bytes: &[u8]) -> Result<Request<'_>, WireError> {
    let header = InHeader::from_bytes(bytes).ok_or(WireError::NoHeader(bytes.len()))?;
    if usize::try_from(header.len) != Ok(bytes.len()) {
        return Err(WireError::Length { got: bytes.len(), said: header.len });
    }
    let body = parse_body(header.opcode, &bytes[InHeader::SIZE..]).unwrap_or(Body::Short);
    Ok(Request { header, body })
}

fn parse_body(opcode: u32, body: &[u8]) -> Option<Body<'_>> {
    Some(match opcode {
        fuse::CUSE_INIT => Body::Init(CuseInitIn::from_bytes(body)?),
        fuse::OPEN => Body::Open(OpenIn::from_bytes(body)?),
        fuse::RELEASE => Body::Release(ReleaseIn::from_bytes(body)?),
        fuse::POLL => Body::Poll(PollIn::from_bytes(body)?),
        fuse::INTERRUPT => Body::Interrupt(InterruptIn::from_bytes(body)?),
        fuse::READ | fuse::WRITE => Body::Stream,
        fuse::IOCTL => {
            let ioctl = IoctlIn::from_bytes(body)?;
            let data = &body[IoctlIn::SIZE..];
            Body::Ioctl(ioctl, data.get(..usize::try_from(ioctl.in_size).ok()?)?)
        }
        _ => Body::Unknown,
    })
}

/// A reply or notification: `error` is 0, a negated errno, or a notification's code.
pub fn message(unique: u64, error: i32, parts: &[&[u8]]) -> Vec<u8> {
    let bytes = OutHeader::SIZE + parts.iter().map(|part| part.len()).sum::<usize>();
    let len = u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(bytes);
    message.extend(OutHeader { len, error, unique }.to_bytes());
    for part in parts {
        message.extend_from_slice(part);
    }
    message
}
