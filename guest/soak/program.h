// Random programs of x86-64 code and a model that says what each instruction does, written apart from any emulator.
//
// A program is a function of one argument, the address of WORDS 64-bit words (in rdi), and returns a mix of all its
// registers. It has 32- and 64-bit arithmetic with flags that are used later, loads and stores, forward branches, loops,
// direct and indirect calls, pushes and pops, and some SSE2. r10 is the target of indirect calls, r11 counts loops.

#define WORDS 32
#define OPS 1200
#define CODE_LIMIT (OPS * 12)

enum { MOVI, MOV, ALU, CARRY, UNARY, SHIFT, IMUL, LEA, BSWAP, XCHG, LOAD, STORE, ADD_TO, SETCC, CMOV, PUSH, POP,
       TO_X, FROM_X, PADDQ, PXOR, JCC, CALL, LEA_CODE, CALL_R, RET };
// The /r numbers of ALU and UNARY.
enum { ADD = 0, OR = 1, ADC = 2, SBB = 3, AND = 4, SUB = 5, XOR = 6, CMP = 7 };
enum { INC, DEC, NOT, NEG };

struct op {
  u8 code, what, a, b, wide; // wide: 64 bits
  int target;                // index of an op
  u64 imm;
  u32 at, imm_at;            // offsets of the instruction and of its immediate
};
struct program {
  struct op ops[OPS];
  int count;
  u32 length;
  u8 code[CODE_LIMIT];
};
struct state {
  u64 r[16], x[8], data[WORDS], stack[8];
  int calls[8], depth, call_depth;
  u8 cf, zf, sf, of, pf;
};

static const u8 usable[] = {0, 1, 2, 6, 8, 9}; // rax rcx rdx rsi r8 r9
static u8 usable_register(void) { return usable[below(sizeof usable)]; }

// ---- the model

static int holds(const struct state *s, int condition) {
  int value = 0;
  switch (condition >> 1) {
  case 0: value = s->of; break;
  case 1: value = s->cf; break;
  case 2: value = s->zf; break;
  case 3: value = s->cf | s->zf; break;
  case 4: value = s->sf; break;
  case 5: value = s->pf; break;
  case 6: value = s->sf != s->of; break;
  case 7: value = s->zf | (s->sf != s->of); break;
  }
  return value ^ (condition & 1);
}

static u64 narrow(u64 value, int wide) { return wide ? value : (u32)value; }

static void result_flags(struct state *s, u64 result, int wide) {
  u8 low = result, ones = 0;
  s->zf = narrow(result, wide) == 0;
  s->sf = (result >> (wide ? 63 : 31)) & 1;
  for (; low; low &= low - 1)
    ones++;
  s->pf = !(ones & 1);
}

static u64 alu(struct state *s, int what, u64 a, u64 b, int wide) {
  int sign = wide ? 63 : 31, carry = (what == ADC || what == SBB) && s->cf;
  u64 result;
  a = narrow(a, wide), b = narrow(b, wide);
  switch (what) {
  case ADD: case ADC:
    result = narrow(a + b + carry, wide);
    s->cf = carry ? result <= a : result < a;
    s->of = (((a ^ result) & (b ^ result)) >> sign) & 1;
    break;
  case SUB: case SBB: case CMP:
    result = narrow(a - b - carry, wide);
    s->cf = carry ? a <= b : a < b;
    s->of = (((a ^ b) & (a ^ result)) >> sign) & 1;
    break;
  default:
    result = what == OR ? a | b : what == AND ? a & b : a ^ b;
    s->cf = s->of = 0;
  }
  result_flags(s, result, wide);
  return result;
}

static u64 unary(struct state *s, int what, u64 a, int wide) {
  u64 least = wide ? 1ULL << 63 : 1ULL << 31, result;
  a = narrow(a, wide);
  switch (what) {
  case NOT: return narrow(~a, wide);
  case INC: result = narrow(a + 1, wide), s->of = result == least; break;
  case DEC: result = narrow(a - 1, wide), s->of = a == least; break;
  default: result = narrow(-a, wide), s->of = a == least, s->cf = a != 0;
  }
  result_flags(s, result, wide);
  return result;
}

static u64 shift(int what, u64 a, int n, int wide) {
  int bits = wide ? 64 : 32;
  a = narrow(a, wide);
  switch (what) {
  case 0: return narrow(a << n | a >> (bits - n), wide); // rol
  case 1: return narrow(a >> n | a << (bits - n), wide); // ror
  case 4: return narrow(a << n, wide);
  case 5: return a >> n;
  default: return wide ? (u64)((int64_t)a >> n) : (u32)((int32_t)a >> n); // sar
  }
}

static u64 swap_bytes(u64 a) {
  u64 result = 0;
  int i;
  for (i = 0; i < 8; i++)
    result = result << 8 | (a >> 8 * i & 255);
  return result;
}

// Executes an op and returns the index of the next, or -1 at the end.
static int step(struct state *s, const struct op *o, int i, const u8 *base, const struct program *p) {
  u64 t;
  switch (o->code) {
  case MOVI: s->r[o->a] = o->imm; break;
  case MOV: s->r[o->a] = narrow(s->r[o->b], o->wide); break;
  case ALU: case CARRY:
    t = alu(s, o->what, s->r[o->a], s->r[o->b], o->wide);
    if (o->what != CMP)
      s->r[o->a] = t;
    break;
  case UNARY: s->r[o->a] = unary(s, o->what, s->r[o->a], o->wide); break;
  case SHIFT: s->r[o->a] = shift(o->what, s->r[o->a], o->imm, o->wide); break;
  case IMUL: s->r[o->a] = narrow(s->r[o->a] * s->r[o->b], o->wide); break;
  case LEA: s->r[o->a] = narrow(s->r[o->a] + (s->r[o->b] << o->what) + (u64)(int64_t)(int32_t)o->imm, o->wide); break;
  case BSWAP: s->r[o->a] = swap_bytes(s->r[o->a]); break;
  case XCHG: t = s->r[o->a], s->r[o->a] = s->r[o->b], s->r[o->b] = t; break;
  case LOAD: s->r[o->a] = s->data[o->b]; break;
  case STORE: s->data[o->b] = s->r[o->a]; break;
  case ADD_TO: s->data[o->b] = alu(s, ADD, s->data[o->b], s->r[o->a], 1); break;
  case SETCC: s->r[o->a] = (s->r[o->a] & ~255ULL) | holds(s, o->what); break;
  case CMOV:
    if (holds(s, o->what))
      s->r[o->a] = s->r[o->b];
    break;
  case PUSH: s->stack[s->depth++] = s->r[o->a]; break;
  case POP: s->r[o->a] = s->stack[--s->depth]; break;
  case TO_X: s->x[o->a] = s->r[o->b]; break;
  case FROM_X: s->r[o->b] = s->x[o->a]; break;
  case PADDQ: s->x[o->a] += s->x[o->b]; break;
  case PXOR: s->x[o->a] ^= s->x[o->b]; break;
  case JCC: return holds(s, o->what) ? o->target : i + 1;
  case LEA_CODE: s->r[10] = (u64)(base + p->ops[o->target].at); break;
  case CALL: case CALL_R: s->calls[s->call_depth++] = i + 1; return o->target;
  case RET: return s->call_depth ? s->calls[--s->call_depth] : -1;
  }
  return i + 1;
}

// What the program, at base, makes of the words in data: changes them, returns the result.
static u64 expected(const struct program *p, u64 *data, const u8 *base) {
  struct state s;
  int i = 0;
  memset(&s, 0, sizeof s);
  memcpy(s.data, data, sizeof s.data);
  while (i >= 0)
    i = step(&s, &p->ops[i], i, base, p);
  memcpy(data, s.data, sizeof s.data);
  return s.r[0];
}

// ---- the encoder

static void byte(struct program *p, int value) { p->code[p->length++] = value; }
static void immediate(struct program *p, struct op *o, u64 value, int size) {
  o->imm_at = p->length;
  memcpy(p->code + p->length, &value, size);
  p->length += size;
}
static void rex(struct program *p, int wide, int reg, int rm) {
  int value = 0x40 | wide << 3 | (reg & 8) >> 1 | (rm & 8) >> 3;
  if (value != 0x40)
    byte(p, value);
}
static void registers(struct program *p, int reg, int rm) { byte(p, 0xc0 | (reg & 7) << 3 | (rm & 7)); }
static void word(struct program *p, struct op *o, int opcode) { // reg, [rdi + disp32]
  rex(p, 1, o->a, 7), byte(p, opcode), byte(p, 0x80 | (o->a & 7) << 3 | 7), immediate(p, o, o->b * 8, 4);
}

static void encode(struct program *p, struct op *o) {
  o->at = p->length;
  switch (o->code) {
  case MOVI: rex(p, 1, 0, o->a), byte(p, 0xb8 | (o->a & 7)), immediate(p, o, o->imm, 8); break;
  case MOV: rex(p, o->wide, o->b, o->a), byte(p, 0x89), registers(p, o->b, o->a); break;
  case ALU: case CARRY: rex(p, o->wide, o->b, o->a), byte(p, o->what << 3 | 1), registers(p, o->b, o->a); break;
  case UNARY: rex(p, o->wide, 0, o->a), byte(p, o->what < NOT ? 0xff : 0xf7), registers(p, o->what, o->a); break;
  case SHIFT: rex(p, o->wide, 0, o->a), byte(p, 0xc1), registers(p, o->what, o->a), immediate(p, o, o->imm, 1); break;
  case IMUL: rex(p, o->wide, o->a, o->b), byte(p, 0x0f), byte(p, 0xaf), registers(p, o->a, o->b); break;
  case LEA:
    byte(p, 0x40 | o->wide << 3 | (o->a & 8) >> 1 | (o->b & 8) >> 2 | (o->a & 8) >> 3), byte(p, 0x8d);
    byte(p, 0x84 | (o->a & 7) << 3), byte(p, o->what << 6 | (o->b & 7) << 3 | (o->a & 7)), immediate(p, o, o->imm, 4);
    break;
  case BSWAP: rex(p, 1, 0, o->a), byte(p, 0x0f), byte(p, 0xc8 | (o->a & 7)); break;
  case XCHG: rex(p, 1, o->b, o->a), byte(p, 0x87), registers(p, o->b, o->a); break;
  case LOAD: word(p, o, 0x8b); break;
  case STORE: word(p, o, 0x89); break;
  case ADD_TO: word(p, o, 0x01); break;
  case SETCC: byte(p, 0x40 | (o->a & 8) >> 3), byte(p, 0x0f), byte(p, 0x90 | o->what), registers(p, 0, o->a); break;
  case CMOV: rex(p, 1, o->a, o->b), byte(p, 0x0f), byte(p, 0x40 | o->what), registers(p, o->a, o->b); break;
  case PUSH: rex(p, 0, 0, o->a), byte(p, 0x50 | (o->a & 7)); break;
  case POP: rex(p, 0, 0, o->a), byte(p, 0x58 | (o->a & 7)); break;
  case TO_X: byte(p, 0x66), rex(p, 1, o->a, o->b), byte(p, 0x0f), byte(p, 0x6e), registers(p, o->a, o->b); break;
  case FROM_X: byte(p, 0x66), rex(p, 1, o->a, o->b), byte(p, 0x0f), byte(p, 0x7e), registers(p, o->a, o->b); break;
  case PADDQ: byte(p, 0x66), byte(p, 0x0f), byte(p, 0xd4), registers(p, o->a, o->b); break;
  case PXOR: byte(p, 0x66), byte(p, 0x0f), byte(p, 0xef), registers(p, o->a, o->b); break;
  case JCC: byte(p, 0x0f), byte(p, 0x80 | o->what), immediate(p, o, 0, 4); break;
  case CALL: byte(p, 0xe8), immediate(p, o, 0, 4); break;
  case LEA_CODE: byte(p, 0x4c), byte(p, 0x8d), byte(p, 0x15), immediate(p, o, 0, 4); break; // lea r10, [rip + disp32]
  case CALL_R: byte(p, 0x41), byte(p, 0xff), byte(p, 0xd2); break;                          // call r10
  case RET: byte(p, 0xc3); break;
  }
}

// ---- the generator

static struct op *put(struct program *p, int code, int what, int a, int b) {
  struct op *o = &p->ops[p->count++];
  memset(o, 0, sizeof *o);
  o->code = code, o->what = what, o->a = a, o->b = b, o->wide = 1;
  return o;
}

// About n ops. flags: those of the last op are all defined. Returns the same for the end.
static int put_ops(struct program *p, int n, int flags, int is_loop_allowed, int subs) {
  while (n-- > 0 && p->count < OPS - 200) {
    u8 a = usable_register(), b = usable_register(), w = below(4) != 0, condition = below(16);
    int jump, first;
    struct op *o;
    switch (below(26)) {
    case 0: put(p, MOVI, 0, a, 0)->imm = any(); break;
    case 1: put(p, MOV, 0, a, b)->wide = w; break;
    case 2: case 3: case 4: case 5: case 6: {
      static const u8 plain[] = {ADD, OR, AND, SUB, XOR, CMP};
      put(p, ALU, plain[below(6)], a, b)->wide = w, flags = 1;
      break;
    }
    case 7: if (flags) put(p, CARRY, below(2) ? ADC : SBB, a, b)->wide = w; break;
    case 8: o = put(p, UNARY, below(4), a, 0), o->wide = w, flags |= o->what == NEG; break; // inc, dec: CF stays as it was
    case 9: {
      static const u8 kinds[] = {0, 1, 4, 5, 7};
      o = put(p, SHIFT, kinds[below(5)], a, 0), o->wide = w, o->imm = 1 + below(w ? 63 : 31), flags = 0;
      break;
    }
    case 10: put(p, IMUL, 0, a, b)->wide = w, flags = 0; break;
    case 11: o = put(p, LEA, below(4), a, b), o->wide = w, o->imm = (u32)any(); break;
    case 12: put(p, BSWAP, 0, a, 0); break;
    case 13: put(p, XCHG, 0, a, b); break;
    case 14: case 15: put(p, LOAD, 0, a, below(WORDS)); break;
    case 16: case 17: put(p, STORE, 0, a, below(WORDS)); break;
    case 18: put(p, ADD_TO, 0, a, below(WORDS)), flags = 1; break;
    case 19: if (flags) put(p, SETCC, condition, a, 0); break;
    case 20: if (flags) put(p, CMOV, condition, a, b); break;
    case 21: put(p, PUSH, 0, a, 0), put(p, POP, 0, b, 0); break;
    case 22:
      put(p, TO_X, 0, a & 7, b), put(p, below(2) ? PADDQ : PXOR, 0, b & 7, a & 7), put(p, FROM_X, 0, b & 7, a);
      break;
    case 23:
      if (!flags)
        break;
      jump = p->count, put(p, JCC, condition, 0, 0);
      flags = put_ops(p, 1 + below(6), 1, 0, subs);
      p->ops[jump].target = p->count;
      break;
    case 24:
      if (!is_loop_allowed)
        break;
      put(p, MOVI, 0, 11, 0)->imm = 1 + below(20), first = p->count;
      put_ops(p, 1 + below(10), 0, 0, subs);
      put(p, UNARY, DEC, 11, 0), put(p, JCC, 5, 0, 0)->target = first, flags = 0; // jnz
      break;
    case 25:
      if (!subs)
        break;
      first = -1 - below(subs); // which subroutine; its place is known at the end
      if (below(2))
        put(p, CALL, 0, 0, 0)->target = first;
      else
        put(p, LEA_CODE, 0, 0, 0)->target = first, put(p, CALL_R, 0, 0, 0)->target = first;
      flags = 0;
      break;
    }
  }
  return flags;
}

static void generate(struct program *p, int ops) {
  int subs = below(4), places[4], i, j;
  p->count = p->length = 0;
  for (i = 0; i < (int)sizeof usable; i++)
    put(p, MOVI, 0, usable[i], 0)->imm = any();
  for (i = 0; i < 8; i++) // the caller's SSE registers are unknown
    put(p, TO_X, 0, i, usable_register());
  put_ops(p, ops, 0, 1, subs);
  for (i = 1; i < (int)sizeof usable; i++)
    put(p, SHIFT, 0, 0, 0)->imm = 13, put(p, ALU, ADD, 0, usable[i]);
  put(p, RET, 0, 0, 0);
  for (i = 0; i < subs; i++)
    places[i] = p->count, put_ops(p, 1 + below(8), 0, 0, 0), put(p, RET, 0, 0, 0);
  for (i = 0; i < p->count; i++)
    if (p->ops[i].target < 0)
      p->ops[i].target = places[-1 - p->ops[i].target];
  for (i = 0; i < p->count; i++)
    encode(p, &p->ops[i]);
  for (i = 0; i < p->count; i++) {
    struct op *o = &p->ops[i];
    if (o->code == JCC || o->code == CALL || o->code == LEA_CODE) {
      j = (int)p->ops[o->target].at - (int)(o->imm_at + 4);
      memcpy(p->code + o->imm_at, &j, 4);
    }
  }
}

// Changes one instruction of the program, in the model and in the code as it lies at memory.
static void patch(struct program *p, u8 *memory) {
  for (;;) {
    struct op *o = &p->ops[below(p->count)];
    if (o->code == MOVI && o->a != 11) {
      o->imm = any();
      memcpy(memory + o->imm_at, &o->imm, 8);
    } else if (o->code == SHIFT) {
      o->imm = 1 + below(o->wide ? 63 : 31);
      memory[o->imm_at] = o->imm;
    } else if (o->code == ALU && o->what != CMP) {
      static const u8 plain[] = {ADD, OR, AND, SUB, XOR};
      o->what = plain[below(5)];
      memory[o->at + ((memory[o->at] & 0xf0) == 0x40)] = o->what << 3 | 1;
    } else
      continue;
    return;
  }
}
