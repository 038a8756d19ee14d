/** The clone of an appliance with layers of its own gets its present generation, as its own; files are shared by hard links. */
import { copyFileSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { CatalogRow } from '../appliances/catalog.ts';
import type { FleetContext } from '../context.ts';
import { copyTree } from '../merge-layers/tree-copy.ts';
import { isThere, syncFileSystemAside, writeNewFile } from '../state/files.ts';
import { applianceOwner } from '../state/paths.ts';
import { applianceDefinition } from '../templates/follow.ts';
import type { Definition, GenerationRecord } from '../templates/generations.ts';
import { configPaths, ownConfig } from '../templates/generations.ts';

/** Lays out `dir`/{generations/N, current, ldf}. */
export async function copyOwnGeneration(
  context: FleetContext,
  row: CatalogRow,
  name: string,
  dir: string,
): Promise<Definition> {
  const { record, ldf, ldfText } = applianceDefinition(context, row);
  const from = applianceOwner(row.name);
  const owner = applianceOwner(name);
  const generation = String(record.generation);
  const at = join(dir, 'generations', generation);
  mkdirSync(at, { recursive: true, mode: 0o755 });
  const config = ownConfig(record, from);
  const copy: GenerationRecord = {
    ...record,
    configs: record.configs.map((ref) =>
      ref.owner === from ? { owner, generation: record.generation } : ref,
    ),
  };
  if (config !== null) {
    const paths = configPaths(context.paths, config);
    await copyTree(paths.tree, join(at, 'config'), { how: 'link' });
    if (isThere(paths.whiteouts)) await copyTree(paths.whiteouts, join(at, 'whiteouts'), { how: 'link' });
    copyFileSync(paths.index, join(at, 'config.index'));
  }
  writeNewFile(join(at, 'stack.json'), `${JSON.stringify(copy, null, 1)}\n`, false);
  writeNewFile(join(at, 'ldf'), ldfText, false);
  symlinkSync(`generations/${generation}`, join(dir, 'current'));
  symlinkSync('current/ldf', join(dir, 'ldf'));
  await syncFileSystemAside(dir);
  return { owner, record: copy, ldf, ldfText };
}
