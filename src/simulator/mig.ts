import type { MigGeometry } from "../dra/driver/inventory.ts";

/**
 * MIG geometry: which partitions a board can be cut into, and what each takes of the board.
 *
 * Profiles, placements, multiprocessors, engines and usable memory as `nvidia-smi mig -lgip` and `-lgipp` print them
 * (NVIDIA mig-parted #120, gpu-operator #1303). Usable memory varies with firmware. A real driver asks NVML instead:
 * profile IDs and names differ between boards.
 */

export const migBoards = ["a100-40gb", "a100-80gb", "h100-80gb"] as const;
export type MigBoard = (typeof migBoards)[number];

/** The seven profiles that all boards with 7 compute and 8 memory slices share: ID, compute, memory, starts. */
const shapes = [
  { id: 19, computeSlices: 1, memorySlices: 1, starts: [0, 1, 2, 3, 4, 5, 6] },
  { id: 20, computeSlices: 1, memorySlices: 1, starts: [0, 1, 2, 3, 4, 5, 6] },
  { id: 15, computeSlices: 1, memorySlices: 2, starts: [0, 2, 4, 6] },
  { id: 14, computeSlices: 2, memorySlices: 2, starts: [0, 2, 4] },
  { id: 9, computeSlices: 3, memorySlices: 4, starts: [0, 4] },
  { id: 5, computeSlices: 4, memorySlices: 4, starts: [0] },
  { id: 0, computeSlices: 7, memorySlices: 8, starts: [0] },
] as const;

/** Per shape: name, usable GiB, multiprocessors, copy engines, decoders, JPEG engines, optical flow engines. */
type BoardRow = readonly [string, number, number, number, number, number, number];

const boards: Record<MigBoard, readonly BoardRow[]> = {
  "a100-40gb": [
    ["1g.5gb", 4.75, 14, 1, 0, 0, 0],
    ["1g.5gb+me", 4.75, 14, 1, 1, 1, 1],
    ["1g.10gb", 9.75, 14, 1, 1, 0, 0],
    ["2g.10gb", 9.75, 28, 2, 1, 0, 0],
    ["3g.20gb", 19.625, 42, 3, 2, 0, 0],
    ["4g.20gb", 19.625, 56, 4, 2, 0, 0],
    ["7g.40gb", 39.375, 98, 7, 5, 1, 1],
  ],
  "a100-80gb": [
    ["1g.10gb", 9.5, 14, 1, 0, 0, 0],
    ["1g.10gb+me", 9.5, 14, 1, 1, 1, 1],
    ["1g.20gb", 19.5, 14, 1, 1, 0, 0],
    ["2g.20gb", 19.5, 28, 2, 1, 0, 0],
    ["3g.40gb", 39.25, 42, 3, 2, 0, 0],
    ["4g.40gb", 39.25, 56, 4, 2, 0, 0],
    ["7g.80gb", 78.75, 98, 7, 5, 1, 1],
  ],
  "h100-80gb": [
    ["1g.10gb", 9.75, 16, 1, 1, 1, 0],
    ["1g.10gb+me", 9.75, 16, 1, 1, 1, 1],
    ["1g.20gb", 19.625, 26, 1, 1, 1, 0],
    ["2g.20gb", 19.625, 32, 2, 2, 2, 0],
    ["3g.40gb", 39.5, 60, 3, 3, 3, 0],
    ["4g.40gb", 39.5, 64, 4, 4, 4, 0],
    ["7g.80gb", 79.25, 132, 8, 7, 7, 1],
  ],
};

/** All profiles of a board, small to large. The last one is the whole board. */
export function migGeometry(board: MigBoard): MigGeometry {
  const profiles = boards[board].map(([name, gibibytes, multiprocessors, copyEngines, decoders, jpegs, ofas], row) => ({
    ...shapes[row]!,
    name,
    amounts: {
      memoryMebibytes: gibibytes * 1024,
      multiprocessors,
      copyEngines,
      decoders,
      encoders: 0,
      jpegEngines: jpegs,
      ofaEngines: ofas,
    },
  }));
  return { computeSlices: 7, memorySlices: 8, profiles };
}
