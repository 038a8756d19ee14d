/** The face of layer/: layer units on disk (metadata, tree, binary index), made from packages, archives and directories. */

export { buildUnit } from './build-unit.ts';
export { findConflicts, findOverlaps, type IndexedUnit, type Overlap } from './conflicts.ts';
export * from './contract.ts';
export { syncDirectory, writeFileDurably } from './durable-file.ts';
export { importDeb } from './import-deb.ts';
export { type ImportPool, openImportPool, sharedImportPool } from './import-pool.ts';
export { importTar } from './import-tar.ts';
export { openPlainFile, readPlainFile } from './plain-file.ts';
export { removeTree } from './remove-tree.ts';
export { readSharedLibs, type SharedLib } from './shared-libs.ts';
export { cleanRepoDir, makeDurable } from './staging.ts';
export { openTreeIndex, treeIndexFromBytes } from './tree-index.ts';
export { blocksFor, buildTreeIndex, type TreeEntry } from './tree-index-build.ts';
export { isTreeXattr, type ScanOptions, scanTree, scanTreeSync } from './tree-scan.ts';
export { openTreeWriter, type TreeWriter } from './tree-writer.ts';
export {
  findUnit,
  listUnits,
  openUnit,
  openUnitIndex,
  readMetadata,
  removeUnit,
  unitDirName,
  unitIndexFile,
  unitTreeDir,
} from './unit.ts';
export { verifyUnit } from './verify.ts';
export { indexTree, indexTreeSync, writeTreeIndex } from './write-tree-index.ts';
