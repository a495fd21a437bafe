import { createHash } from "node:crypto";
import { linuxBusId, type PciPlace } from "../host/host.ts";
import type { Gpu, MigGeometry, MigProfile, StandingPartition } from "../inventory.ts";
import type { BoardReading, MigProfileReading, MigReading, Reading } from "./reading.ts";

/** Which boards are cut up for claims: all in MIG mode, or those with these UUIDs or minors. */
export type Partitionable = "all" | ReadonlySet<string>;

/**
 * What was read of the boards → the inventory's GPUs. Pure. `missing`: as boards were read before that do not answer now; what
 * they were joined to keeps its name.
 */
export function gpusOf(
  reading: Reading,
  places: ReadonlyMap<string, PciPlace>,
  partitionable: Partitionable,
  missing: readonly BoardReading[] = [],
): readonly Gpu[] {
  const domains = nvlinkDomains([...reading.boards, ...missing]);
  return reading.boards.map((board) => {
    const pciBusID = linuxBusId(board.busId);
    const { nics = [], ...place } = places.get(pciBusID) ?? {};
    const nvlinkDomain = domains.get(board.uuid);
    const isOptedIn =
      partitionable === "all" || partitionable.has(board.uuid) || partitionable.has(String(board.minor));
    return {
      minor: board.minor,
      uuid: board.uuid,
      productName: board.name,
      brand: board.brand,
      architecture: board.architecture,
      cudaComputeCapability: `${board.computeCapability.join(".")}.0`,
      driverVersion: semanticVersion(reading.driverVersion),
      cudaDriverVersion: reading.cudaDriverVersion,
      ...(board.addressingMode === undefined ? {} : { addressingMode: board.addressingMode }),
      // Boards that are on no base have 0, all of them.
      ...(board.moduleId === undefined || !board.links.includes("switch") ? {} : { moduleId: board.moduleId }),
      memoryBytes: board.memoryBytes,
      pciBusID,
      ...place,
      ...(nics.length === 0 ? {} : { nics }),
      // The parts of a board reach no peer, whatever the board is wired to.
      ...(nvlinkDomain === undefined || board.mig !== undefined ? {} : { nvlinkDomain }),
      ...(board.clique === undefined || board.mig !== undefined ? {} : { clique: board.clique }),
      ...(board.mig === undefined ? {} : partsOf(board.mig, isOptedIn)),
    };
  });
}

/** NVIDIA's versions have two or three numbers, with leading zeros: `535.104.05`. */
function semanticVersion(text: string): string {
  const [major = 0, minor = 0, patch = 0] = text.split(".").map((part) => Number.parseInt(part, 10) || 0);
  return `${major}.${minor}.${patch}`;
}

/**
 * Board → the name of what NVLink joins it to; boards without links have none. A clique of several hosts names itself. Behind
 * NVSwitch the far end of every link is a switch: all such boards of a host are one domain. Bridges join GPU to GPU. Names of
 * the latter two are hashes of the boards' UUIDs: the same after every restart, and unique in the world.
 */
function nvlinkDomains(boards: readonly BoardReading[]): ReadonlyMap<string, string> {
  const groups = new Map(boards.map(({ uuid }) => [uuid, new Set([uuid])]));
  const join = (a: string, b: string): void => {
    const [into, from] = [groups.get(a)!, groups.get(b)!];
    for (const uuid of into === from ? [] : from) {
      into.add(uuid);
      groups.set(uuid, into);
    }
  };
  const byAddress = new Map(boards.map(({ busId, uuid }) => [linuxBusId(busId), uuid]));
  const switched = boards.filter(({ links }) => links.some((link) => farEnd(link, byAddress) === "switch"));
  for (const { uuid } of switched) join(switched[0]!.uuid, uuid);
  for (const { uuid, links } of boards) {
    for (const link of links) {
      const peer = farEnd(link, byAddress);
      if (peer !== "switch") join(uuid, peer);
    }
  }
  return new Map(
    boards.flatMap(({ uuid, clique, links }) => {
      if (clique !== undefined) return [[uuid, clique] as const];
      return links.length === 0 ? [] : [[uuid, hashName([...groups.get(uuid)!])] as const];
    }),
  );
}

/** Drivers that do not tell what is there name a switch by an address that no GPU has. */
function farEnd(link: BoardReading["links"][number], byAddress: ReadonlyMap<string, string>): string {
  return link === "switch" ? link : (byAddress.get(linuxBusId(link.busId)) ?? "switch");
}

function hashName(uuids: readonly string[]): string {
  const hash = createHash("sha256").update(uuids.toSorted().join(" ")).digest("hex");
  return `nvlink-${hash.slice(0, 16)}`;
}

/** A board in MIG mode: cut up for claims, or used as an administrator cut it. */
function partsOf(mig: MigReading, isOptedIn: boolean): Pick<Gpu, "mig" | "partitions" | "partsOnly"> {
  const profiles = mig.profiles.map(migProfile).toSorted(bySize);
  if (isOptedIn) return { partsOnly: true, mig: geometry(profiles) };
  const partitions = mig.instances.flatMap(({ id, profileId, start, compute }): StandingPartition[] => {
    const profile = profiles.find((each) => each.id === profileId);
    const [only, ...others] = compute;
    // Compute instances that share a GPU instance share its memory: that is no device of its own.
    if (profile === undefined || only === undefined || others.length > 0) return [];
    return [{ profile, start, gpuInstance: id, computeInstance: only.id, uuid: only.uuid }];
  });
  return { partsOnly: true, partitions };
}

function geometry(profiles: readonly MigProfile[]): MigGeometry {
  return {
    computeSlices: Math.max(...profiles.map(({ computeSlices }) => computeSlices)),
    memorySlices: Math.max(...profiles.map(({ memorySlices }) => memorySlices)),
    profiles,
  };
}

function migProfile({ id, name, computeSlices, placements, ...rest }: MigProfileReading): MigProfile {
  const { memoryMebibytes, multiprocessors, copyEngines, decoders, encoders, jpegEngines, ofaEngines } = rest;
  return {
    ...{ id, name, computeSlices },
    memorySlices: placements[0]?.size ?? 0,
    starts: placements.map(({ start }) => start),
    amounts: { memoryMebibytes, multiprocessors, copyEngines, decoders, encoders, jpegEngines, ofaEngines },
  };
}

/** Small to large; variants such as `+me` behind the plain one. */
function bySize(a: MigProfile, b: MigProfile): number {
  const size = a.computeSlices - b.computeSlices || a.memorySlices - b.memorySlices;
  return size || a.name.length - b.name.length || a.id - b.id;
}
