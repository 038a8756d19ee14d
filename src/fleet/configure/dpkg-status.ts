/**
 * dpkg's status database as text: made from layer units, and merged into the copy of an appliance that changed its own. Pure.
 * It keeps true: a package is listed exactly when its unit is in the stack, with the state that dpkg would give it.
 */
import { type Stanza, stanzaField } from '../../formats/index.ts';
import { stanzasOf, stanzaText } from './status-texts.ts';
import type { UnitFacts } from './unit-facts.ts';

/** dpkg's order of fields in its database (lib/dpkg/parse.c, fieldinfos). */
const FIELD_ORDER = [
  'Package',
  'Essential',
  'Protected',
  'Status',
  'Priority',
  'Section',
  'Installed-Size',
  'Origin',
  'Maintainer',
  'Bugs',
  'Architecture',
  'Multi-Arch',
  'Source',
  'Version',
  'Config-Version',
  'Replaces',
  'Provides',
  'Depends',
  'Pre-Depends',
  'Recommends',
  'Suggests',
  'Breaks',
  'Conflicts',
  'Enhances',
  'Conffiles',
  'Description',
  'Triggers-Pending',
  'Triggers-Awaited',
];
const ORDER = new Map(FIELD_ORDER.map((name, i) => [name.toLowerCase(), i]));
/** Fields of archives that dpkg does not keep. */
const DROPPED = new Set([
  'filename',
  'size',
  'md5sum',
  'sha1',
  'sha256',
  'sha512',
  'description-md5',
  'status',
]);

export interface StatusOptions {
  status: 'install ok unpacked' | 'install ok installed';
  /** The version that was configured last, for an upgrade. */
  configVersion?: string | undefined;
}

/** The status stanza of a package that is in place; null for a layer that is no Debian package. */
export function statusStanza(facts: UnitFacts, options: StatusOptions): Stanza | null {
  if (facts.control === null) return null;
  const fields = [...facts.control].filter(([name]) => !DROPPED.has(name.toLowerCase()));
  fields.push(['Status', options.status]);
  if (options.configVersion !== undefined) fields.push(['Config-Version', options.configVersion]);
  if (facts.conffiles.length > 0) fields.push(['Conffiles', ['', ...facts.conffiles].join('\n')]);
  const rank = ([name]: [string, string]) => ORDER.get(name.toLowerCase()) ?? FIELD_ORDER.length;
  return new Map(fields.sort((a, b) => rank(a) - rank(b)));
}

/** Key of a package instance: name and architecture (Multi-Arch: same packages can be there twice). */
export function stanzaKey(stanza: Stanza): string {
  return `${stanzaField(stanza, 'Package') ?? ''} ${stanzaField(stanza, 'Architecture') ?? ''}`;
}

/** Parses a status or extended_states text by package; null gives an empty map. */
export function parseStatus(text: string | null): Map<string, Stanza> {
  const stanzas = text === null ? [] : stanzasOf(text);
  return new Map(stanzas.map((stanza) => [stanzaKey(stanza), stanza]));
}

/** A status text, in dpkg's order: by name, then architecture. */
export function formatStatus(stanzas: Iterable<Stanza>): string {
  const sorted = [...stanzas].map((stanza) => ({ key: stanzaKey(stanza), stanza }));
  sorted.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return sorted.map(({ stanza }) => `${stanzaText(stanza)}\n`).join('');
}

function sameStanza(a: Stanza | undefined, b: Stanza | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  if (a.size !== b.size) return false;
  for (const [name, value] of a) if (b.get(name) !== value) return false;
  return true;
}

/** Which of three stanzas counts for a package: the appliance's, the old template's, the new template's. */
function mergeOne(
  mine: Stanza | undefined,
  base: Stanza | undefined,
  next: Stanza | undefined,
): Stanza | undefined {
  if (sameStanza(mine, base)) return next;
  const version = (stanza: Stanza | undefined) => stanza && stanzaField(stanza, 'Version');
  const templateMoved = version(base) !== version(next);
  // The appliance removed it; a new version of the layer brings its files back.
  if (mine === undefined) return templateMoved ? next : undefined;
  // The appliance installed it by itself, or its template ships it now too: the appliance's files are above.
  if (base === undefined) return mine;
  // The appliance changed it but has the template's files, and those are others (or none) now.
  if (templateMoved && version(mine) === version(base)) return next;
  return mine;
}

/**
 * The status of an appliance that has its own copy, after its template went from `oldTemplate` to `newTemplate`: what the appliance
 * installed or changed itself stays, everything else follows the template. Also right for apt's extended_states.
 */
export function mergePrivateStatus(oldTemplate: string, newTemplate: string, mine: string): string {
  const base = parseStatus(oldTemplate);
  const next = parseStatus(newTemplate);
  const own = parseStatus(mine);
  const merged: Stanza[] = [];
  for (const key of new Set([...base.keys(), ...next.keys(), ...own.keys()])) {
    const stanza = mergeOne(own.get(key), base.get(key), next.get(key));
    if (stanza !== undefined) merged.push(stanza);
  }
  return formatStatus(merged);
}

/** apt's extended_states: the packages that are in only because others need them. */
export function extendedStates(units: { facts: UnitFacts; auto: boolean }[]): string {
  const stanzas = units
    .filter(({ facts, auto }) => auto && facts.control !== null)
    .map(({ facts }): Stanza => {
      const name = facts.dpkgName.replace(/:.*/, '');
      return new Map([
        ['Package', name],
        ['Architecture', facts.architecture],
        ['Auto-Installed', '1'],
      ]);
    });
  return formatStatus(stanzas);
}
