/** One operation in place of another, with the same arguments: what chooses between two versions, and what catches. */
import type { VfsOperations } from '../contract.ts';

export type Operations = { [K in keyof VfsOperations]: VfsOperations[K] };

type Call = (
  a?: unknown,
  b?: unknown,
  c?: unknown,
  d?: unknown,
  e?: unknown,
  f?: unknown,
  g?: unknown,
  h?: unknown,
) => unknown;

/**
 * Calls what `target` gives at each call. Arguments, no more than eight, are passed one by one: no array is made for a call. What is thrown, `failed`
 * turns into the answer.
 */
function passedOn(target: () => Call, failed: ((error: unknown) => unknown) | null): Call {
  return (a, b, c, d, e, f, g, h) => {
    if (failed === null) return target()(a, b, c, d, e, f, g, h);
    try {
      return target()(a, b, c, d, e, f, g, h);
    } catch (error) {
      return failed(error);
    }
  };
}

/** Gives what makes, of an operation's name and its other version, the one that chooses: asked at each call, because the condition may change while the VLFS is served. */
export function chooser(
  plain: Operations,
  isOther: () => boolean,
): <K extends keyof Operations>(name: K, other: Operations[K]) => Operations[K] {
  return <K extends keyof Operations>(name: K, other: Operations[K]) => {
    const [usual, special] = [plain[name] as Call, other as Call];
    return passedOn(() => (isOther() ? special : usual), null) as Operations[K];
  };
}

/** The operations with everything that one throws given to `failed`, which answers for it. */
export function catching(
  operations: Operations,
  failed: (operation: string, error: unknown) => number,
): Operations {
  const caught: Record<string, Call> = {};
  for (const [name, operation] of Object.entries(operations) as [string, Call][])
    caught[name] = passedOn(
      () => operation,
      (error) => failed(name, error),
    );
  return caught as unknown as Operations;
}
