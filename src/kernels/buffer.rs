//! Memory for packed weights: aligned to cache lines, on huge pages where the system grants them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A zero-filled array that starts on a cache line (64 bytes), or on a 2 MiB page when it is at least that large.
pub struct AlignedBuffer<T: bytemuck::Pod> {
    start: NonNull<T>,
    len: usize,
    layout: Layout,
}

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

impl<T: bytemuck::Pod> AlignedBuffer<T> {
    /// `len` zeros.
    ///
    /// # Panics
    /// When the size overflows; aborts when there is no memory.
    pub fn zeroed(len: usize) -> Self {
        // At least one element, because a layout of size 0 must not be allocated.
        let bytes = len.max(1).checked_mul(size_of::<T>()).expect("a buffer's size fits in memory");
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        let layout = Layout::from_size_align(bytes, align).expect("a buffer's size fits in memory");
        assert!(bytes > 0, "elements have a size");
        // SAFETY: the layout's size is not zero, as asserted.
        let raw = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(raw.cast::<T>()) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            // SAFETY: the range is the whole pages of our own allocation; the advice changes no contents, and a
            // refusal is harmless.
            unsafe { libc::madvise(raw.cast(), bytes & !(4096 - 1), libc::MADV_HUGEPAGE) };
        }
        // SAFETY: `raw` is valid for `bytes` bytes; zeros are valid for every `Pod`. This is the first touch, after
        // the advice, so that huge pages are used from the start.
        unsafe { raw.write_bytes(0, bytes) };
        AlignedBuffer { start, len, layout }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: bytemuck::Pod> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is valid and initialized for `len` elements as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: bytemuck::Pod> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: bytemuck::Pod> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `zeroed`, freed once.
        unsafe { dealloc(self.start.as_ptr().cast(), self.layout) };
    }
}

impl<T: bytemuck::Pod> std::fmt::Debug for AlignedBuffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} x {} bytes)", self.len, size_of::<T>())
    }
}

// SAFETY: the buffer owns its memory, as a `Vec` does, and plain data moves and is shared freely between threads.
unsafe impl<T: bytemuck::Pod + Send> Send for AlignedBuffer<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: bytemuck::Pod + Sync> Sync for AlignedBuffer<T> {}

thread_local! {
    /// Unpacked weights of a few panels; kept, so that a product does not allocate.
    static SCRATCH: RefCell<AlignedBuffer<u64>> = RefCell::new(AlignedBuffer::zeroed(0));
}

/// Lends this thread's scratch, at least `bytes` long; what it holds is unspecified.
pub(super) fn with_scratch<R>(bytes: usize, use_it: impl FnOnce(*mut u8) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.bytes() < bytes {
            *scratch = AlignedBuffer::zeroed(bytes.div_ceil(8));
        }
        use_it(scratch.as_mut_ptr().cast())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zero_filled_and_writable() {
        for len in [0, 1, 17, 3 << 20] {
            let mut buffer = AlignedBuffer::<f32>::zeroed(len);
            assert_eq!(buffer.as_ptr().addr() % CACHE_LINE, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&v| v == 0.0));
            if let Some(last) = buffer.last_mut() {
                *last = 2.0;
                assert_eq!(buffer[len - 1], 2.0);
            }
            assert_eq!(buffer.bytes(), 4 * len);
        }
    }
}
