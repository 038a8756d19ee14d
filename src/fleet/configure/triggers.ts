/**
 * dpkg's triggers, which it keeps at unpack time and we therefore must: the index of interests (var/lib/dpkg/triggers), and
 * which triggers a change of units sets off. Pure. Source: dpkg's doc/triggers.txt, deb-triggers(5).
 */
import type { UnitFacts } from './unit-facts.ts';

export interface Directive {
  verb: 'interest' | 'activate';
  noawait: boolean;
  name: string;
}

/** The directives of one package's triggers file; lines that dpkg would not know are passed over. */
export function parseTriggers(text: string): Directive[] {
  const found: Directive[] = [];
  for (const line of text.split('\n')) {
    const m = /^\s*(interest|activate)(-await|-noawait)?\s+(\S+)\s*$/.exec(line.replace(/#.*/, ''));
    if (m) found.push({ verb: m[1] as Directive['verb'], noawait: m[2] === '-noawait', name: m[3]! });
  }
  return found;
}

export interface TriggerFiles {
  /** Text of triggers/File: `/path package[/noawait]`. */
  file: string;
  /** Explicit trigger name to the text of triggers/NAME. */
  explicit: Map<string, string>;
}

/** The interest index for a set of packages, in the order of their names. */
export function triggerFiles(units: UnitFacts[]): TriggerFiles {
  const file: string[] = [];
  const explicit = new Map<string, string>();
  const sorted = [...units].sort((a, b) => (a.dpkgName < b.dpkgName ? -1 : a.dpkgName > b.dpkgName ? 1 : 0));
  for (const unit of sorted) {
    for (const { verb, noawait, name } of parseTriggers(unit.triggers)) {
      if (verb !== 'interest') continue;
      const who = `${unit.dpkgName}${noawait ? '/noawait' : ''}`;
      if (name.startsWith('/')) file.push(`${name} ${who}\n`);
      else if (/^[a-z0-9][a-z0-9+.:_-]*$/i.test(name))
        explicit.set(name, `${explicit.get(name) ?? ''}${who}\n`);
    }
  }
  return { file: file.join(''), explicit };
}

/** One package that a change sets off, by which trigger and because of whom. */
export interface Activation {
  name: string;
  by: string;
}

/**
 * The triggers that `changed` units set off among the interests of `interested`, each once. `pathsOf` lists a unit's paths; it is
 * called only when some interest is in a path.
 */
export function activatedTriggers(
  changed: UnitFacts[],
  interested: UnitFacts[],
  pathsOf: (unit: UnitFacts) => string[],
): Activation[] {
  const explicit = new Set<string>();
  const files = new Set<string>();
  for (const unit of interested)
    for (const { verb, name } of parseTriggers(unit.triggers))
      if (verb === 'interest') (name.startsWith('/') ? files : explicit).add(name);
  const found = new Map<string, string>();
  for (const unit of changed) {
    for (const { verb, name } of parseTriggers(unit.triggers))
      if (verb === 'activate' && explicit.has(name) && !found.has(name)) found.set(name, unit.dpkgName);
    // A path is a file trigger's when it is the interest's path or below it: look up each of its prefixes.
    const open = files.size > [...files].filter((f) => found.has(f)).length;
    if (!open) continue;
    for (const path of pathsOf(unit)) {
      for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
        const prefix = path.slice(0, end);
        if (files.has(prefix) && !found.has(prefix)) found.set(prefix, unit.dpkgName);
      }
    }
  }
  return [...found].map(([name, by]) => ({ name, by }));
}
