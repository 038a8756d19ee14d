/**
 * The stacks that mounts and records refer to, stored once each by the digest of their key. A stack of hundreds of layers is a message of hundreds of KB, so
 * stratad sends it once and then names it; the last ones that were asked for are kept in memory.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { StackSpec } from '../../vlfs/contract.ts';
import { stackName } from '../stack-name.ts';
import type { DataPlanePaths } from './paths.ts';
import { writeWhole } from './write-whole.ts';

/** Stacks kept in memory. */
const MOST_KEPT = 32;

export interface StackStore {
  /** Stores a stack that is not there; returns its name. */
  put(stack: StackSpec): string;
  /** The stack of this name, or null. */
  get(name: string): StackSpec | null;
  /** The stack with this key. Throws NOT_FOUND with `data.unknownStack` when its owner must send it first. */
  ofKey(key: string): StackSpec;
  /** Removes all others but those that somebody asked for within the last `restMs`. True: it left some for that. */
  retain(names: ReadonlySet<string>, restMs: number): boolean;
}

export function openStackStore(paths: DataPlanePaths): StackStore {
  mkdirSync(paths.stacksDir, { recursive: true, mode: 0o700 });
  /** When each was last asked for. */
  const stored = new Map(readdirSync(paths.stacksDir).map((name) => [name, 0]));
  const kept = new Map<string, StackSpec>();

  function keep(name: string, stack: StackSpec): StackSpec {
    kept.delete(name);
    kept.set(name, stack);
    stored.set(name, Date.now());
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value!);
    return stack;
  }

  function get(name: string): StackSpec | null {
    const known = kept.get(name);
    if (known !== undefined) return keep(name, known);
    if (!/^[0-9a-f]{40}\.json$/.test(name)) return null;
    try {
      return keep(name, JSON.parse(readFileSync(join(paths.stacksDir, name), 'utf8')) as StackSpec);
    } catch {
      return null;
    }
  }

  return {
    put(stack) {
      const name = stackName(stack.key);
      if (!stored.has(name)) writeWhole(join(paths.stacksDir, name), JSON.stringify(stack));
      keep(name, kept.get(name) ?? stack);
      return name;
    },
    get,
    ofKey(key) {
      const stack = get(stackName(key));
      if (stack !== null) return stack;
      throw new StrataError('NOT_FOUND', `the stack ${key} was not sent`, { data: { unknownStack: key } });
    },
    retain(names, restMs) {
      const before = Date.now() - restMs;
      let leaves = false;
      for (const [name, asked] of stored) {
        if (names.has(name)) continue;
        if (asked > before) {
          leaves = true;
          continue;
        }
        rmSync(join(paths.stacksDir, name), { force: true });
        stored.delete(name);
        kept.delete(name);
      }
      return leaves;
    },
  };
}
