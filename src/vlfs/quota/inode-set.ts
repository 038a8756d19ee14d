/** A set of inode numbers, one bit each in pages of 4,096: they lie close together on every file system, so a million take about 128 KiB. */

const PAGE_BITS = 4096;

export interface InodeSet {
  has(ino: number): boolean;
  add(ino: number): void;
  delete(ino: number): void;
}

export function newInodeSet(): InodeSet {
  const pages = new Map<number, Uint32Array>();
  return {
    has(ino) {
      const bit = ino % PAGE_BITS;
      const page = pages.get((ino - bit) / PAGE_BITS);
      return page !== undefined && (page[bit >>> 5]! & (1 << (bit & 31))) !== 0;
    },
    add(ino) {
      const bit = ino % PAGE_BITS;
      const key = (ino - bit) / PAGE_BITS;
      let page = pages.get(key);
      if (page === undefined) {
        page = new Uint32Array(PAGE_BITS / 32);
        pages.set(key, page);
      }
      page[bit >>> 5]! |= 1 << (bit & 31);
    },
    delete(ino) {
      const bit = ino % PAGE_BITS;
      const page = pages.get((ino - bit) / PAGE_BITS);
      if (page !== undefined) page[bit >>> 5]! &= ~(1 << (bit & 31));
    },
  };
}
