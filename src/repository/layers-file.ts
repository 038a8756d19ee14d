/**
 * The `Layers` file of a repository directory: deb822, one stanza per unit, after a comment line with the stamp of the directory it
 * describes and a digest. Other tools may read it; a file whose stamp is not the directory's, or that is damaged, is not used.
 */
import { hash } from 'node:crypto';
import { join } from 'node:path';
import type { StrataError } from '../base/index.ts';
import { formatStanzas, metadataFromStanza, metadataToStanza, parseStanzas } from '../formats/index.ts';
import { writeFileDurably } from '../layer/index.ts';
import type { OfferedUnit } from '../resolver/contract.ts';
import { readIfThere } from './files.ts';

/** First line: which state of the directory this describes, and the digest of all that follows the line. */
function headLine(stamp: string, body: string | Uint8Array): string {
  return `# Strata repository database, stamp ${stamp}, sha256 ${hash('sha256', body)}\n`;
}

/** The units of a Layers file with this stamp; null when there is none, it is out of date or damaged. */
export function readLayersFile(dir: string, stamp: string, repo: string): OfferedUnit[] | null {
  const bytes = readIfThere(join(dir, 'Layers'));
  if (bytes === null) return null;
  const body = bytes.subarray(bytes.indexOf(10) + 1);
  const head = bytes.latin1Slice(0, bytes.length - body.length);
  if (head !== headLine(stamp, body)) return null;
  try {
    return parseStanzas(body, { format: 'Layers' }).map((stanza) => ({
      ...metadataFromStanza(stanza, 'Layers'),
      repo,
    }));
  } catch {
    return null;
  }
}

/** Replaces the Layers file. False when the directory cannot be written (a read-only share, a full disk): then the caller's own cache has to do. */
export function writeLayersFile(dir: string, stamp: string, units: readonly OfferedUnit[]): boolean {
  const body = `\n${formatStanzas(units.map(metadataToStanza))}`;
  try {
    writeFileDurably(join(dir, 'Layers'), headLine(stamp, body) + body);
    return true;
  } catch (error) {
    const code = ((error as StrataError).cause as NodeJS.ErrnoException | undefined)?.code ?? '';
    if (['EROFS', 'EACCES', 'EPERM', 'ENOSPC', 'EDQUOT'].includes(code)) return false;
    throw error;
  }
}
