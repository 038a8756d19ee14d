/**
 * The metadata of one layer unit <-> its deb822 stanza: the paper's figure 5 (Layer, Version, Conflicts, Depends,
 * Pre-Depends, Provides) and the further fields that Strata and Debian know. parse(format(m)) gives m back exactly. Relations stay
 * text here; parseRelations reads them when wanted. Also the mapping from a Debian control stanza.
 */
import { checkObjectName, checkVersion, FormatError } from '../base/index.ts';
import type { Category, Stanza, UnitMetadata } from './contract.ts';
import { formatStanza, parseStanzas, stanzaField } from './deb822.ts';

type TextKey = Exclude<keyof UnitMetadata, 'layer' | 'version' | 'category' | 'essential' | 'installedBytes'>;

/** Text fields in the order of writing. */
const TEXT_FIELDS: readonly (readonly [TextKey, string])[] = [
  ['architecture', 'Architecture'],
  ['multiArch', 'Multi-Arch'],
  ['priority', 'Priority'],
  ['section', 'Section'],
  ['source', 'Source'],
  ['preDepends', 'Pre-Depends'],
  ['depends', 'Depends'],
  ['recommends', 'Recommends'],
  ['conflicts', 'Conflicts'],
  ['breaks', 'Breaks'],
  ['provides', 'Provides'],
  ['replaces', 'Replaces'],
  ['description', 'Description'],
];

const CATEGORIES: readonly string[] = ['software', 'config', 'private'];
const RELATION_KEYS: ReadonlySet<TextKey> = new Set([
  'preDepends',
  'depends',
  'recommends',
  'conflicts',
  'breaks',
  'provides',
  'replaces',
]);

/** A relation field in one line, whatever lines it was written in. */
function oneLine(value: string): string {
  return value.includes('\n') ? value.replace(/\s*\n\s*/g, ' ').trim() : value;
}

function requiredField(stanza: Stanza, name: string, format: string): string {
  const value = stanzaField(stanza, name);
  if (value === undefined || value === '') throw new FormatError(format, 0, `the field ${name} is missing`);
  return value;
}

function size(text: string, factor: number, format: string): number {
  const bytes = /^\d{1,15}$/.test(text) ? Number(text) * factor : Number.NaN;
  if (!Number.isSafeInteger(bytes)) throw new FormatError(format, 0, `a bad size ${JSON.stringify(text)}`);
  return bytes;
}

/** Reads one stanza of a metadata or Layers file. Throws FormatError or BAD_NAME. A missing Category is `software`. */
export function metadataFromStanza(stanza: Stanza, format = 'metadata'): UnitMetadata {
  const category = stanzaField(stanza, 'Category') ?? 'software';
  if (!CATEGORIES.includes(category))
    throw new FormatError(format, 0, `an unknown category ${JSON.stringify(category)}`);
  const metadata: UnitMetadata = {
    layer: checkObjectName('layer', requiredField(stanza, 'Layer', format)),
    version: checkVersion(requiredField(stanza, 'Version', format)),
    category: category as Category,
  };
  for (const [key, name] of TEXT_FIELDS) {
    const value = stanzaField(stanza, name);
    if (value !== undefined && value !== '') metadata[key] = RELATION_KEYS.has(key) ? oneLine(value) : value;
  }
  if (stanzaField(stanza, 'Essential') === 'yes') metadata.essential = true;
  const bytes = stanzaField(stanza, 'Installed-Bytes');
  const kibibytes = stanzaField(stanza, 'Installed-Size');
  if (bytes !== undefined) metadata.installedBytes = size(bytes, 1, format);
  else if (kibibytes !== undefined) metadata.installedBytes = size(kibibytes, 1024, format);
  return metadata;
}

/** Reads a metadata file: exactly one stanza. */
export function parseUnitMetadata(input: string | Uint8Array, format = 'metadata'): UnitMetadata {
  const stanzas = parseStanzas(input, { format });
  if (stanzas.length !== 1)
    throw new FormatError(format, 0, `one stanza is expected, there are ${stanzas.length}`);
  return metadataFromStanza(stanzas[0]!, format);
}

/** The stanza of a unit, fields in a fixed order. */
export function metadataToStanza(metadata: UnitMetadata): Stanza {
  const stanza: Stanza = new Map([
    ['Layer', metadata.layer],
    ['Version', metadata.version],
    ['Category', metadata.category],
  ]);
  if (metadata.essential) stanza.set('Essential', 'yes');
  if (metadata.installedBytes !== undefined) {
    stanza.set('Installed-Size', String(Math.ceil(metadata.installedBytes / 1024)));
    if (metadata.installedBytes % 1024 !== 0) stanza.set('Installed-Bytes', String(metadata.installedBytes));
  }
  for (const [key, name] of TEXT_FIELDS) {
    const value = metadata[key];
    if (value !== undefined && value !== '') stanza.set(name, value);
  }
  return stanza;
}

/** A metadata file's text. */
export function formatUnitMetadata(metadata: UnitMetadata): string {
  return formatStanza(metadataToStanza(metadata));
}

/** The fields of a Debian control stanza that make a UnitMetadata, in the order that metadataFromDebFields takes. */
export const DEB_FIELDS = [
  'Package',
  'Version',
  'Architecture',
  'Multi-Arch',
  'Essential',
  'Priority',
  'Section',
  'Description',
  'Installed-Size',
  'Depends',
  'Pre-Depends',
  'Recommends',
  'Conflicts',
  'Breaks',
  'Provides',
  'Replaces',
  'Source',
] as const;

/**
 * A layer unit's metadata from the values of DEB_FIELDS: Package is the layer, the category is software, Description keeps its first
 * line, Source its name without version. Throws FormatError or BAD_NAME.
 */
export function metadataFromDebFields(v: readonly (string | undefined)[], format = 'control'): UnitMetadata {
  if (!v[0]) throw new FormatError(format, 0, 'the field Package is missing');
  if (!v[1]) throw new FormatError(format, 0, `the field Version is missing in ${v[0]}`);
  const m: UnitMetadata = {
    layer: checkObjectName('layer', v[0]),
    version: checkVersion(v[1]),
    category: 'software',
  };
  if (v[2]) m.architecture = v[2];
  if (v[3]) m.multiArch = v[3];
  if (v[4] === 'yes') m.essential = true;
  if (v[5]) m.priority = v[5];
  if (v[6]) m.section = v[6];
  if (v[7]) {
    const newline = v[7].indexOf('\n');
    m.description = newline === -1 ? v[7] : v[7].slice(0, newline);
  }
  // Some packages in the wild have nonsense here, and dpkg does not care; neither do we.
  if (v[8] && /^\d{1,12}$/.test(v[8])) m.installedBytes = Number(v[8]) * 1024;
  if (v[9]) m.depends = oneLine(v[9]);
  if (v[10]) m.preDepends = oneLine(v[10]);
  if (v[11]) m.recommends = oneLine(v[11]);
  if (v[12]) m.conflicts = oneLine(v[12]);
  if (v[13]) m.breaks = oneLine(v[13]);
  if (v[14]) m.provides = oneLine(v[14]);
  if (v[15]) m.replaces = oneLine(v[15]);
  if (v[16]) {
    const space = v[16].indexOf(' ');
    m.source = space === -1 ? v[16] : v[16].slice(0, space);
  }
  return m;
}

/** A layer unit's metadata from a package's control stanza. */
export function metadataFromDebControl(stanza: Stanza, format = 'control'): UnitMetadata {
  return metadataFromDebFields(
    DEB_FIELDS.map((field) => stanzaField(stanza, field)),
    format,
  );
}
