/** The name under which a stack is stored in ROOT/run/stacks, and by which the parts of strata-fs speak of it. */
import { createHash } from 'node:crypto';

export function shortDigest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 40);
}

export function stackName(key: string): string {
  return `${shortDigest(key)}.json`;
}
