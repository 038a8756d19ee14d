/** Operations of which another version counts while a condition holds: asked at each call, because it may change while the VLFS is served. */
import type { VfsOperations } from '../contract.ts';

export type Operations = { [K in keyof VfsOperations]: VfsOperations[K] };

type Call = (...args: unknown[]) => unknown;

/** Gives what makes, of an operation's name and its other version, the one that chooses. Arguments are passed one by one: no array is made for a call. */
export function chooser(
  plain: Operations,
  isOther: () => boolean,
): <K extends keyof Operations>(name: K, other: Operations[K]) => Operations[K] {
  return <K extends keyof Operations>(name: K, other: Operations[K]) => {
    const [usual, special] = [plain[name] as Call, other as Call];
    return ((
      a: unknown,
      b: unknown,
      c: unknown,
      d: unknown,
      e: unknown,
      f: unknown,
      g: unknown,
      h: unknown,
    ) => (isOther() ? special : usual)(a, b, c, d, e, f, g, h)) as Operations[K];
  };
}
