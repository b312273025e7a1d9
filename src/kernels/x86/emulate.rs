//! AMX and AVX-VNNI for tests on processors that lack them: a handler of SIGILL does what the instruction would.
//!
//! The processor refuses an instruction that it does not know, and the system then runs the handler with the thread's
//! registers. It decodes the instruction, checks what hardware checks, does it, and steps over it. Tiles are kept per
//! thread. A fault that hardware would raise ends the process with the reason; instructions other than those that
//! kernels use go to whoever handled the signal before. Source: Intel SDM volume 2.

use std::arch::x86_64::__cpuid_count;
use std::cell::RefCell;
use std::sync::OnceLock;

use crate::kernels::Isa;

/// Whether this set is emulated here: the processor lacks it and has what it extends.
pub(in crate::kernels) fn emulates(isa: Isa) -> bool {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let lacking = matches!(isa, Isa::AvxVnni | Isa::Amx) && !isa.is_available() && isa.base().is_available();
    if lacking {
        INSTALLED.get_or_init(install);
    }
    lacking
}

/// What handled SIGILL before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

fn install() {
    // SAFETY: all zeros are a valid `sigaction`; the handler touches nothing but the refused instruction's operands.
    unsafe {
        let mut previous: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(libc::SIGILL, std::ptr::null(), &mut previous), 0);
        assert!(PREVIOUS.set(previous).is_ok(), "installed once");
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigill as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
    }
}

extern "C" fn on_sigill(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system hands over the registers of the interrupted thread, which waits for this function.
    let registers = Registers { context: unsafe { &mut *context.cast() } };
    let Some(instruction) = Instruction::decode(&registers) else { return chain(signal, info, context) };
    if !emulate(&instruction, &registers) {
        return chain(signal, info, context);
    }
    registers.context.uc_mcontext.gregs[libc::REG_RIP as usize] += instruction.length as i64;
}

/// Hands the signal to the handler before; without one, the instruction is refused again, for good.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(previous) = PREVIOUS.get() else { return };
    // SAFETY: an address that `sigaction` returned is a handler of the kind that its flags say.
    unsafe {
        if previous.sa_sigaction == libc::SIG_DFL || previous.sa_sigaction == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_DFL);
        } else {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            std::mem::transmute::<usize, Handler>(previous.sa_sigaction)(signal, info, context);
        }
    }
}

/// Hardware would have raised a fault here.
fn fault(reason: &str) -> ! {
    let message = format!("emulated instruction faults: {reason}\n");
    // SAFETY: a string of this length. The test harness's own printing would keep it to itself.
    unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
    std::process::abort()
}

fn require(condition: bool, reason: &str) {
    if !condition {
        fault(reason);
    }
}

/// Components of the XSAVE area: the 128 low bits of vector registers, the 128 bits above, the 256 bits above those.
const SSE: usize = 1;
const AVX: usize = 2;
const HIGH_512: usize = 6;

/// Where a component of the XSAVE area starts. Asked once: under a hypervisor, CPUID takes longer than all the rest.
fn component_offset(component: usize) -> usize {
    static OFFSETS: OnceLock<[usize; 7]> = OnceLock::new();
    OFFSETS.get_or_init(|| [0, 1, 2, 3, 4, 5, 6].map(|i| __cpuid_count(13, i).ebx as usize))[component]
}

/// Registers of the interrupted thread.
struct Registers<'a> {
    context: &'a mut libc::ucontext_t,
}

impl Registers<'_> {
    /// General register by its number in instructions.
    fn general(&self, number: usize) -> u64 {
        use libc::{REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
        use libc::{REG_RAX, REG_RBP, REG_RBX, REG_RCX, REG_RDI, REG_RDX, REG_RSI, REG_RSP};
        let names = [
            REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11,
            REG_R12, REG_R13, REG_R14, REG_R15,
        ];
        self.context.uc_mcontext.gregs[names[number] as usize] as u64
    }

    fn instruction_pointer(&self) -> u64 {
        self.context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64
    }

    /// The two halves of a 256-bit register: in the legacy area and in the AVX component of the XSAVE area.
    fn halves(&self, number: usize) -> [*mut [u8; 16]; 2] {
        let area = self.context.uc_mcontext.fpregs.cast::<u8>();
        let high = component_offset(AVX);
        // SAFETY: signal frames hold the XSAVE area in standard form, at least up to AVX, which the processor has.
        unsafe { [area.add(160 + 16 * number).cast(), area.add(high + 16 * number).cast()] }
    }

    /// Which components of the XSAVE area are in use.
    fn components(&self) -> *mut u64 {
        // SAFETY: the header follows the 512 bytes of the legacy area.
        unsafe { self.context.uc_mcontext.fpregs.cast::<u8>().add(512).cast() }
    }

    fn ymm(&self, number: usize) -> [u8; 32] {
        let mut value = [0; 32];
        // SAFETY: the frame's own memory.
        unsafe {
            let used = *self.components();
            for (half, component) in [SSE, AVX].into_iter().enumerate() {
                if used >> component & 1 == 1 {
                    value[16 * half..][..16].copy_from_slice(&*self.halves(number)[half]);
                }
            }
        }
        value
    }

    /// Sets a 256-bit register and, as VEX instructions do, clears what lies above.
    fn set_ymm(&self, number: usize, value: [u8; 32]) {
        // SAFETY: the frame's own memory; components not in use were written as zeros.
        unsafe {
            for (half, to) in self.halves(number).into_iter().enumerate() {
                (*to).copy_from_slice(&value[16 * half..][..16]);
            }
            *self.components() |= 1 << SSE | 1 << AVX;
            if *self.components() >> HIGH_512 & 1 == 1 {
                let at = component_offset(HIGH_512) + 32 * number;
                self.context.uc_mcontext.fpregs.cast::<u8>().add(at).write_bytes(0, 32);
            }
        }
    }
}

/// An operand in memory.
#[derive(Clone, Copy)]
struct Address {
    /// Base and displacement.
    start: u64,
    /// Scaled index: the distance of a tile's rows.
    index: u64,
    has_sib: bool,
}

/// An instruction with a three-byte VEX prefix of the map 0F38.
struct Instruction {
    opcode: u8,
    /// Mandatory prefix: none, 66, F3, F2.
    prefix: u8,
    long: bool,
    wide: bool,
    /// Operand in VEX.
    vvvv: usize,
    /// Operand `reg` of ModRM.
    reg: usize,
    /// Operand `rm` of ModRM, when it is a register.
    rm: usize,
    memory: Option<Address>,
    length: usize,
}

impl Instruction {
    fn decode(registers: &Registers<'_>) -> Option<Instruction> {
        let start = registers.instruction_pointer();
        // SAFETY: the processor has just read the instruction from there; bytes are read only as far as it goes.
        let byte = |at: usize| unsafe { *(start as usize as *const u8).add(at) };
        if byte(0) != 0xc4 || byte(1) & 31 != 2 {
            return None;
        }
        let extension = |bit: u8| usize::from(!byte(1) >> bit & 1) * 8;
        let (r, x, b) = (extension(7), extension(6), extension(5));
        let (mode, rm) = (byte(4) >> 6, usize::from(byte(4) & 7));
        let mut instruction = Instruction {
            opcode: byte(3),
            prefix: byte(2) & 3,
            long: byte(2) >> 2 & 1 == 1,
            wide: byte(2) >> 7 == 1,
            vvvv: usize::from(!byte(2) >> 3 & 15),
            reg: usize::from(byte(4) >> 3 & 7) + r,
            rm: rm + b,
            memory: None,
            length: 5,
        };
        if mode == 3 {
            return Some(instruction);
        }
        let mut base = Some(rm + b);
        let mut index = 0;
        let has_sib = rm == 4;
        if has_sib {
            let sib = byte(5);
            instruction.length = 6;
            let number = usize::from(sib >> 3 & 7) + x;
            index = if number == 4 { 0 } else { registers.general(number) << (sib >> 6) };
            base = (sib & 7 != 5 || mode != 0).then_some(usize::from(sib & 7) + b);
        } else if rm == 5 && mode == 0 {
            base = None;
        }
        let at = instruction.length;
        let word = || i32::from_le_bytes([0, 1, 2, 3].map(|i| byte(at + i)));
        let (displacement, bytes) = match mode {
            1 => (i64::from(byte(at) as i8), 1),
            2 => (i64::from(word()), 4),
            _ if base.is_none() => (i64::from(word()), 4),
            _ => (0, 0),
        };
        instruction.length += bytes;
        let base = match base {
            Some(number) => registers.general(number),
            None if has_sib => 0,
            None => start + instruction.length as u64,
        };
        instruction.memory = Some(Address { start: base.wrapping_add_signed(displacement), index, has_sib });
        Some(instruction)
    }
}

/// Does the instruction; false for one that is not known here.
fn emulate(i: &Instruction, registers: &Registers<'_>) -> bool {
    TILES.with_borrow_mut(|tiles| {
        match (i.opcode, i.prefix, i.memory) {
            _ if i.wide => return false,
            (0x50, 1, memory) if i.long => vpdpbusd(i, memory, registers),
            _ if i.long => return false,
            (0x49, 0, Some(from)) if i.reg == 0 => tiles.configure(from),
            (0x49, 0, None) if i.reg == 0 && i.rm == 0 => *tiles = TileState::RELEASED,
            (0x49, 3, None) if i.rm == 0 => tiles.zero(i.reg),
            (0x4b, 1 | 3, Some(from)) => tiles.load(i.reg, from),
            (0x4b, 2, Some(to)) => tiles.store(to, i.reg),
            // In the order of the prefixes: both unsigned, unsigned by signed, signed by unsigned, both signed.
            (0x5e, signs, None) => tiles.multiply_bytes(signs & 2 != 0, signs & 1 != 0, i),
            (0x5c, 2, None) => tiles.multiply_bf16(i),
            _ => return false,
        }
        true
    })
}

/// `vpdpbusd ymm, ymm, ymm/m256`.
fn vpdpbusd(i: &Instruction, memory: Option<Address>, registers: &Registers<'_>) {
    let unsigned = registers.ymm(i.vvvv);
    let signed = match memory {
        // SAFETY: the instruction's own operand.
        Some(from) => unsafe { ((from.start + from.index) as usize as *const [u8; 32]).read_unaligned() },
        None => registers.ymm(i.rm),
    };
    let mut sums = registers.ymm(i.reg);
    for (lane, sum) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let products = (4 * lane..4 * lane + 4).map(|at| i32::from(unsigned[at]) * i32::from(signed[at] as i8));
        *sum = i32::from_le_bytes(*sum).wrapping_add(products.sum()).to_le_bytes();
    }
    registers.set_ymm(i.reg, sums);
}

const ROWS: usize = 16;
const ROW_BYTES: usize = 64;
type Row = [u8; ROW_BYTES];

/// The tiles of a thread.
struct TileState {
    configured: bool,
    /// Rows and bytes of a row.
    shapes: [(usize, usize); 8],
    data: [[Row; ROWS]; 8],
}

thread_local! {
    static TILES: RefCell<TileState> = const { RefCell::new(TileState::RELEASED) };
}

impl TileState {
    const RELEASED: TileState = TileState { configured: false, shapes: [(0, 0); 8], data: [[[0; ROW_BYTES]; ROWS]; 8] };

    /// `ldtilecfg`.
    fn configure(&mut self, from: Address) {
        // SAFETY: the instruction's own operand of 64 bytes.
        let bytes = unsafe { ((from.start + from.index) as usize as *const [u8; 64]).read_unaligned() };
        *self = TileState::RELEASED;
        if bytes[0] == 0 {
            return;
        }
        require(bytes[0] == 1, "palette of tiles other than 0 and 1");
        require(bytes[1] == 0, "restart of a tile's load is not emulated");
        let reserved = bytes[2..16].iter().chain(&bytes[32..48]).chain(&bytes[56..]);
        require(reserved.copied().all(|byte| byte == 0), "reserved byte in a configuration of tiles");
        for (tile, shape) in self.shapes.iter_mut().enumerate() {
            let row_bytes = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
            *shape = (usize::from(bytes[48 + tile]), usize::from(row_bytes));
            require(shape.0 <= ROWS && shape.1 <= ROW_BYTES, "tile larger than 16 rows of 64 bytes");
            require((shape.0 == 0) == (shape.1 == 0), "tile with rows but no columns, or the reverse");
        }
        self.configured = true;
    }

    /// Rows and bytes of a row of a tile that may be used.
    fn shape(&self, tile: usize) -> (usize, usize) {
        require(self.configured, "tiles are not configured on this thread");
        require(tile < 8, "tile beyond tmm7");
        require(self.shapes[tile].0 > 0, "tile without a shape");
        self.shapes[tile]
    }

    /// `tilezero`.
    fn zero(&mut self, tile: usize) {
        self.shape(tile);
        self.data[tile] = [[0; ROW_BYTES]; ROWS];
    }

    /// `tileloadd` and `tileloaddt1`.
    fn load(&mut self, tile: usize, from: Address) {
        require(from.has_sib, "tile's address without index");
        let (rows, row_bytes) = self.shape(tile);
        self.data[tile] = [[0; ROW_BYTES]; ROWS];
        for (row, to) in self.data[tile][..rows].iter_mut().enumerate() {
            let at = from.start.wrapping_add(from.index.wrapping_mul(row as u64)) as usize as *const u8;
            // SAFETY: a row of the instruction's own operand.
            unsafe { at.copy_to_nonoverlapping(to.as_mut_ptr(), row_bytes) };
        }
    }

    /// `tilestored`.
    fn store(&mut self, to: Address, tile: usize) {
        require(to.has_sib, "tile's address without index");
        let (rows, row_bytes) = self.shape(tile);
        for (row, from) in self.data[tile][..rows].iter().enumerate() {
            let at = to.start.wrapping_add(to.index.wrapping_mul(row as u64)) as usize as *mut u8;
            // SAFETY: a row of the instruction's own operand.
            unsafe { at.copy_from_nonoverlapping(from.as_ptr(), row_bytes) };
        }
    }

    /// Rows, steps of four bytes and sums of a row of a product whose operands fit each other.
    fn sizes(&self, i: &Instruction) -> (usize, usize, usize) {
        let (sums, first, second) = (i.reg, i.rm, i.vvvv);
        let (rows, width) = self.shape(sums);
        let (first_rows, inner) = self.shape(first);
        require(sums != first && sums != second && first != second, "one tile in two places of a product");
        require(width % 4 == 0 && inner % 4 == 0, "tile's row is no multiple of 4 bytes");
        let fit = rows == first_rows && self.shape(second) == (inner / 4, width);
        require(fit, "shapes of tiles do not fit each other");
        (rows, inner / 4, width / 4)
    }

    /// Four bytes of a tile.
    fn four(&self, tile: usize, row: usize, at: usize) -> [u8; 4] {
        self.data[tile][row].as_chunks().0[at]
    }

    /// `tdpbuud`, `tdpbusd`, `tdpbsud`, `tdpbssd`.
    fn multiply_bytes(&mut self, first_signed: bool, second_signed: bool, i: &Instruction) {
        let widen = |byte: u8, signed: bool| if signed { i32::from(byte as i8) } else { i32::from(byte) };
        let (rows, steps, width) = self.sizes(i);
        for row in 0..rows {
            for at in 0..width {
                let mut sum = i32::from_le_bytes(self.four(i.reg, row, at));
                for step in 0..steps {
                    let (a, b) = (self.four(i.rm, row, step), self.four(i.vvvv, step, at));
                    let products = (0..4).map(|at| widen(a[at], first_signed) * widen(b[at], second_signed));
                    sum = sum.wrapping_add(products.sum());
                }
                self.data[i.reg][row].as_chunks_mut().0[at] = sum.to_le_bytes();
            }
        }
    }

    /// `tdpbf16ps`: even and odd inputs are summed apart, fused, and then added to what was there; never with denormal
    /// numbers.
    fn multiply_bf16(&mut self, i: &Instruction) {
        let flush = |x: f32| if x.is_subnormal() { 0.0_f32.copysign(x) } else { x };
        let wide = |pair: [u8; 4], odd: usize| flush(f32::from_le_bytes([0, 0, pair[2 * odd], pair[2 * odd + 1]]));
        let (rows, steps, width) = self.sizes(i);
        for row in 0..rows {
            for at in 0..width {
                let mut sums = [0.0_f32; 2];
                for step in 0..steps {
                    let (a, b) = (self.four(i.rm, row, step), self.four(i.vvvv, step, at));
                    for (odd, sum) in sums.iter_mut().enumerate() {
                        *sum = flush(wide(a, odd).mul_add(wide(b, odd), *sum));
                    }
                }
                let before = flush(f32::from_le_bytes(self.four(i.reg, row, at)));
                let sum = flush(before + flush(sums[0] + sums[1]));
                self.data[i.reg][row].as_chunks_mut().0[at] = sum.to_le_bytes();
            }
        }
    }
}
