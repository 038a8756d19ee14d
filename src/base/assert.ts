/** An assertion that stays in production: a broken invariant is a programming error, not a user's. */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`invariant broken: ${what}`);
}
