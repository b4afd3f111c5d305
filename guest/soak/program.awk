# Prints a C program of -v functions=N functions, and as its first line, in a comment, what it prints: awk works it out
# with the same doubles. All numbers stay below 2^53, where they are exact.
function random(n) { state = (state * 16807) % 2147483647; return state % n }
BEGIN {
  state = seed + 1; m = 67108859
  body = ""; x = 1 + random(m - 1); d = 0; start = x
  for (f = 0; f < functions; f++) {
    a = 1 + random(m - 1); b = random(m); c = random(m); n = 1 + random(12); k = 2 + random(5)
    body = body sprintf("static struct pair f%d(struct pair p, long *table) {\n", f)
    body = body sprintf("  for (int i = 0; i < %d; i++) {\n    p.x = (p.x * %dL + %d + i) %% %d;\n", n, a, b, m)
    body = body sprintf("    switch (p.x %% %d) {\n    case 0: p.x = (p.x + %d) %% %d; break;\n", k, c, m)
    body = body sprintf("    case 1: p.d = p.d / 3 + p.x / 7.0; break;\n    default: table[p.x %% 64] += i; p.x += table[%d] & 1;\n    }\n  }\n  return p;\n}\n", f % 64)
    for (i = 0; i < n; i++) {
      x = (x * a + b + i) % m
      if (x % k == 0) x = (x + c) % m
      else if (x % k == 1) d = d / 3 + x / 7.0
      else { t[x % 64] += i; x += t[f % 64] % 2 }
    }
  }
  printf "// %d %.17g\n#include <stdio.h>\n#include <stdlib.h>\n#include <pthread.h>\nstruct pair { long x; double d; };\n%s", x, d, body
  printf "static struct pair (*const all[])(struct pair, long *) = {\n"
  for (f = 0; f < functions; f++) printf "  f%d,\n", f
  printf "};\nint main(void) {\n  long *table = calloc(64, sizeof *table);\n  struct pair p = {%d, 0};\n", start
  printf "  for (int i = 0; i < %d; i++)\n    p = all[i](p, table);\n  printf(\"%%ld %%.17g\\n\", p.x, p.d);\n  return 0;\n}\n", functions
}
