/** A tar archive (plain, gzip, xz, zstd) of a file tree becomes a layer unit. Owners are taken by number. */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import { asStrataError } from '../base/index.ts';
import { decompress, readTar } from '../formats/index.ts';
import { addBaseLinks } from './base-links.ts';
import type { LayerUnit, TarOptions } from './contract.ts';
import { takeIn } from './intake.ts';
import { describedMetadata, makeUnit } from './make-unit.ts';
import { BASE_LAYER, isMergeLink } from './usr-merge.ts';

/** Imports a tar archive. As importDeb, with the name and version told. */
export async function importTar(file: string, options: TarOptions): Promise<LayerUnit> {
  const metadata = describedMetadata(options);
  const label = basename(file);
  await stat(file).catch((error: unknown) => {
    throw asStrataError(error);
  });
  const { layer, version, category } = metadata;
  return makeUnit({ ...options, layer, version, category, label }, async (writer) => {
    const source = createReadStream(file, { highWaterMark: 1 << 18 });
    const items = readTar(decompress(source, { format: label }), {
      format: label,
      isAllowedSymlinkParent: isMergeLink,
    });
    const intake = await takeIn(items, writer, { label, debianOwners: false });
    if (layer === BASE_LAYER) addBaseLinks(writer, metadata.architecture ?? 'all', intake.newestSec);
    return { metadata };
  });
}
