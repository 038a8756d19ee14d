/** What an EROFS image is made of. Names and link targets are latin1 strings, one character a byte. */
import type { Name } from '../../base/index.ts';

/** One inode. An object that stands under several names is a hard link; a directory may stand only once. */
export interface ErofsInode {
  /** Full st_mode. */
  mode: number;
  uid: number;
  gid: number;
  /** Seconds since 1970, signed. */
  mtimeSec: number;
  mtimeNsec: number;
  /** Regular files: i_size. Images are metadata only: the content is one hole. */
  size?: number;
  /** Devices: as the kernel's new_encode_dev. */
  rdev?: number;
  /** Symlinks. */
  target?: Name;
  xattrs?: ReadonlyMap<Name, Uint8Array> | undefined;
  /** Directories, in any order. */
  children?: readonly ErofsChild[];
}

export interface ErofsChild {
  name: Name;
  inode: ErofsInode;
}

export interface ErofsOptions {
  /** 16 bytes. overlayfs tells lower file systems apart by it, so different images need different ones. */
  uuid: Uint8Array;
  /** At most 16 bytes. */
  volumeName?: string;
}
