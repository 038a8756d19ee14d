/** Random operations on a small tree of two units, for tests that compare a VLFS with something else. */
import fc from 'fast-check';
import type { Client, Tree } from './vlfs.test-support.ts';

export const BASE: Tree = {
  'd/a': 'layer one a',
  'd/b': { text: 'layer one b', mode: 0o755 },
  'd/e/a': 'deep',
  'd/l': { link: 'a' },
  'e/a': 'linked',
  'e/b': { hard: 'e/a' },
  'e/e/e': null,
};
export const SECOND: Tree = {
  'd/c': 'layer two c',
  'd/e/b': 'deep two',
  'e/c': 'two',
  'e/d': { hard: 'e/c' },
  'c/a': 'c',
};

/** How a VLFS is opened: with every shared file copied at once when it is changed, or every one partial. */
export type Mode = (typeof MODES)[number];
export const MODES = [false, true].flatMap((passthrough) => [
  { passthrough },
  { passthrough, partialBytes: 0 },
]);

const name = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'l');
const path = fc.array(name, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));

export type Operation =
  | { op: 'write' | 'append' | 'unlink' | 'rmdir' | 'remove' | 'mkdir' | 'read'; path: string }
  | { op: 'chmod'; path: string; mode: number }
  | { op: 'truncate'; path: string; size: number }
  | { op: 'rename'; path: string; to: string; flags: number }
  | { op: 'link' | 'symlink'; path: string; to: string }
  | { op: 'remount' };

export const operation: fc.Arbitrary<Operation> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ op: fc.constantFrom('write', 'append', 'read', 'mkdir'), path }) },
  { weight: 10, arbitrary: fc.record({ op: fc.constantFrom('unlink', 'rmdir'), path }) },
  {
    weight: 4,
    arbitrary: fc.record({ op: fc.constant('chmod'), path, mode: fc.constantFrom(0o600, 0o755) }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('truncate'), path, size: fc.constantFrom(0, 3, 20) }) },
  {
    weight: 14,
    arbitrary: fc.record({
      op: fc.constant('rename'),
      path,
      to: path,
      flags: fc.constantFrom(0, 0, 0, 1, 2),
    }),
  },
  { weight: 6, arbitrary: fc.record({ op: fc.constantFrom('link', 'symlink'), path, to: path }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('remount') }) },
) as fc.Arbitrary<Operation>;

/** As rm -r. */
export function removeAll(c: Client, at: string): void {
  if ((c.stat(at).mode & 0o170000) !== 0o040000) {
    c.unlink(at);
    return;
  }
  for (const child of c.readdir(at)) removeAll(c, `${at}/${child}`);
  c.rmdir(at);
}

export function onVlfs(c: Client, o: Exclude<Operation, { op: 'remount' }>): unknown {
  switch (o.op) {
    case 'write':
      return c.write(o.path, `new ${o.path}`);
    case 'append':
      return c.append(o.path, '+');
    case 'read':
      return c.read(o.path);
    case 'mkdir':
      return c.mkdir(o.path);
    case 'unlink':
      return c.unlink(o.path);
    case 'rmdir':
      return c.rmdir(o.path);
    case 'remove':
      return removeAll(c, o.path);
    case 'chmod':
      return c.chmod(o.path, o.mode);
    case 'truncate':
      return c.truncate(o.path, o.size);
    case 'rename':
      return c.rename(o.path, o.to, o.flags);
    case 'link':
      return c.link(o.path, o.to);
    case 'symlink':
      return c.symlink(o.path, o.to);
  }
}
