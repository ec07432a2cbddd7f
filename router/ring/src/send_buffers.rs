//! What one send carries: a short list of chunks, owned or shared.

use bytes::Bytes;

/// Chunks that one send may carry. The kernel takes at most IOV_MAX = 1024 pieces in one vectored send.
pub const SEND_CHUNKS_MAX: usize = 1_024;

/// One contiguous piece of a send.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes of this send alone, for example coalesced frames. Comes back for reuse by [`SendBuffers::take_owned`].
    Owned(Vec<u8>),
    /// Bytes that other sends may hold too, for example one large payload on its way to many receivers.
    Shared(Bytes),
}

impl Chunk {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Chunk::Owned(bytes) => bytes,
            Chunk::Shared(bytes) => bytes,
        }
    }
}

/// The bytes of one send in order, at most [`SEND_CHUNKS_MAX`] chunks. Made to be reused: the ring gives it back.
#[derive(Debug, Default)]
pub struct SendBuffers {
    chunks: Vec<Chunk>,
    length_bytes: usize,
}

impl SendBuffers {
    /// An empty list; allocates nothing until the first push.
    pub const fn new() -> SendBuffers {
        SendBuffers {
            chunks: Vec::new(),
            length_bytes: 0,
        }
    }

    /// Appends bytes of this send alone. Errors: the list is full; the bytes come back.
    pub fn push_owned(&mut self, bytes: Vec<u8>) -> Result<(), Vec<u8>> {
        if self.is_full() {
            return Err(bytes);
        }
        self.length_bytes += bytes.len();
        self.chunks.push(Chunk::Owned(bytes));
        Ok(())
    }

    /// Appends bytes that others may hold too. Errors: the list is full; the bytes come back.
    pub fn push_shared(&mut self, bytes: Bytes) -> Result<(), Bytes> {
        if self.is_full() {
            return Err(bytes);
        }
        self.length_bytes += bytes.len();
        self.chunks.push(Chunk::Shared(bytes));
        Ok(())
    }

    /// Moves the chunks of `other` to the end of this list, from the front, as many as fit; the rest stays in `other`.
    pub fn append(&mut self, other: &mut SendBuffers) {
        let fitting = other.chunks.len().min(SEND_CHUNKS_MAX - self.chunks.len());
        let moved: usize = other.chunks[..fitting]
            .iter()
            .map(|chunk| chunk.as_slice().len())
            .sum();
        self.chunks.extend(other.chunks.drain(..fitting));
        self.length_bytes += moved;
        other.length_bytes -= moved;
    }

    /// Empties the list and yields its owned buffers, uncleared, for a pool. Shared chunks are let go.
    pub fn take_owned(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.length_bytes = 0;
        self.chunks.drain(..).filter_map(|chunk| match chunk {
            Chunk::Owned(bytes) => Some(bytes),
            Chunk::Shared(_) => None,
        })
    }

    /// Lets all chunks go; keeps the list's own memory.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.length_bytes = 0;
    }

    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Bytes over all chunks.
    pub fn len_bytes(&self) -> usize {
        self.length_bytes
    }

    /// Whether there is no byte to send. (Empty chunks may still be held.)
    pub fn is_empty(&self) -> bool {
        self.length_bytes == 0
    }

    pub fn is_full(&self) -> bool {
        self.chunks.len() == SEND_CHUNKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chunk_more_than_the_kernel_takes_comes_back() {
        let mut buffers = SendBuffers::new();
        for _ in 0..SEND_CHUNKS_MAX {
            buffers.push_shared(Bytes::from_static(b"ab")).unwrap();
        }
        assert!(buffers.is_full());
        assert_eq!(buffers.push_owned(vec![7]), Err(vec![7]));
        assert_eq!(
            buffers.push_shared(Bytes::from_static(b"x")),
            Err(Bytes::from_static(b"x"))
        );
        assert_eq!(buffers.len_bytes(), 2 * SEND_CHUNKS_MAX);
    }

    #[test]
    fn owned_buffers_come_back_with_their_capacity() {
        let mut buffers = SendBuffers::new();
        buffers.push_owned(Vec::with_capacity(4_096)).unwrap();
        buffers.push_shared(Bytes::from_static(b"shared")).unwrap();
        buffers.push_owned(vec![1; 10]).unwrap();
        let owned: Vec<Vec<u8>> = buffers.take_owned().collect();
        assert_eq!(owned.len(), 2);
        assert!(owned[0].capacity() >= 4_096);
        assert!(buffers.is_empty() && buffers.chunks().is_empty());
    }
}
