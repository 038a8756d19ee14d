/**
 * The `Layers` file of a repository directory: deb822, one stanza per unit, after a comment line with the stamp of the directory it
 * describes. Other tools may read it; a file whose stamp is not the directory's is out of date and not used.
 */
import { join } from 'node:path';
import type { StrataError } from '../base/index.ts';
import { formatStanzas, metadataFromStanza, metadataToStanza, parseStanzas } from '../formats/index.ts';
import { writeFileDurably } from '../layer/index.ts';
import type { OfferedUnit } from '../resolver/contract.ts';
import { readIfThere } from './files.ts';

const HEAD = '# Strata repository database, stamp ';

/** The units of a Layers file with this stamp; null when there is none, it is out of date or damaged. */
export function readLayersFile(dir: string, stamp: string, repo: string): OfferedUnit[] | null {
  const bytes = readIfThere(join(dir, 'Layers'));
  if (bytes === null) return null;
  if (bytes.latin1Slice(0, HEAD.length + stamp.length + 1) !== `${HEAD}${stamp}\n`) return null;
  try {
    return parseStanzas(bytes, { format: 'Layers' }).map((stanza) => ({
      ...metadataFromStanza(stanza, 'Layers'),
      repo,
    }));
  } catch {
    return null;
  }
}

/** Replaces the Layers file. False when the directory cannot be written (read-only share): then the caller's own cache has to do. */
export function writeLayersFile(dir: string, stamp: string, units: readonly OfferedUnit[]): boolean {
  const text = `${HEAD}${stamp}\n\n${formatStanzas(units.map(metadataToStanza))}`;
  try {
    writeFileDurably(join(dir, 'Layers'), text);
    return true;
  } catch (error) {
    const code = ((error as StrataError).cause as NodeJS.ErrnoException | undefined)?.code ?? '';
    if (['EROFS', 'EACCES', 'EPERM'].includes(code)) return false;
    throw error;
  }
}
