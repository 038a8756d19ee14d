/**
 * Small databases that both a template's scripts and an appliance write: the appliance's copy would hide what the template adds later
 * (a package, a system user). They are merged in three ways: what the appliance changed stays, everything else follows the template. Pure.
 */
import { mergePrivateStatus } from './dpkg-status.ts';

const ACCOUNTS = ['etc/passwd', 'etc/shadow', 'etc/group', 'etc/gshadow', 'etc/subuid', 'etc/subgid'];
const LINE_SETS = ['etc/shells', 'var/lib/dpkg/triggers/File'];
const STANZAS = ['var/lib/dpkg/status', 'var/lib/apt/extended_states'];

/** The paths (without leading slash) that mergePrivateFile knows. */
export const MERGED_PATHS: readonly string[] = [...STANZAS, ...ACCOUNTS, ...LINE_SETS];

/** The appliance's file `mine` after its template's went from `from` to `to`; `mine` unchanged for other paths. */
export function mergePrivateFile(path: string, from: string, to: string, mine: string): string {
  if (STANZAS.includes(path)) return mergePrivateStatus(from, to, mine);
  if (ACCOUNTS.includes(path)) return mergeLines(from, to, mine, (line) => line.split(':', 1)[0]!);
  if (LINE_SETS.includes(path)) return mergeLines(from, to, mine, (line) => line);
  return mine;
}

/** Merges lines by key, in the appliance's order; what the template adds comes at the end. */
function mergeLines(from: string, to: string, mine: string, keyOf: (line: string) => string): string {
  const base = byKey(from, keyOf);
  const next = byKey(to, keyOf);
  const merged: string[] = [];
  const own = new Set<string>();
  for (const line of mine.split('\n')) {
    if (line === '') continue;
    const key = keyOf(line);
    own.add(key);
    const followed = base.get(key) === line ? next.get(key) : line;
    if (followed !== undefined) merged.push(followed);
  }
  for (const [key, line] of next) if (!own.has(key) && !base.has(key)) merged.push(line);
  return merged.map((line) => `${line}\n`).join('');
}

function byKey(text: string, keyOf: (line: string) => string): Map<string, string> {
  const lines = text.split('\n').filter((line) => line !== '');
  return new Map(lines.map((line) => [keyOf(line), line]));
}
