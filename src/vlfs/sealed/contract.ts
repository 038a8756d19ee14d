/** What the sealed door is asked, and what its parts hand to each other. */
import type { StackSpec, VlfsSpec } from '../contract.ts';

export interface SealedOptions {
  spec: VlfsSpec;
  /** Where images are kept: derived data, safe to delete at any time. */
  imageDir: string;
  /** Directories that hold many trees (repositories, templates, frozen layers): each becomes one data layer for all of them. */
  dataRoots: string[];
  /** Called before each change on disk, for fault injection in tests. */
  onStep?: (step: string) => void;
}

/** Where the trees of a stack lie for overlayfs: data-only layers, and each level's tree as a path in one of them. */
export interface DataLayers {
  dirs: string[];
  /** Per level: path of the tree, absolute in its data layer, latin1, without a trailing '/'. */
  prefixes: string[];
}

/** One image to be made; it can cross to another thread. */
export interface ImageJob {
  stack: StackSpec;
  whiteoutsDir: string;
  /** Paths in the layers to which redirects of the private layer lead. */
  targets: string[];
  layers: DataLayers;
  /** 16 bytes, hexadecimal. */
  uuid: string;
  file: string;
}
