import { chmod } from "node:fs/promises";
import { type DraHandlers, draServer } from "./dra-server.ts";
import { makeFolder } from "./folders.ts";
import type { RegistrationStatus } from "./grpc.ts";
import { registrationServer } from "./registration.ts";
import { removeLeftOver, socketPaths } from "./socket-files.ts";
import { listenUnix } from "./unix-server.ts";

/** The driver's two sockets below the kubelet's folder. */
export interface KubeletSockets {
  /** Says which of them somebody took away, by which the kubelet no longer reaches the driver; undefined: both are there. */
  missing(): Promise<string | undefined>;
  /** Unregisters, and lets calls under way end for some seconds. */
  close(): Promise<void>;
}

/** Less than a service may take to stop; who still waits then asks again. */
const closeGraceMs = 5_000;

/**
 * Opens the DRA socket, then the one by which the kubelet finds it: whoever finds it may call at once. With a name for this
 * process both are its own, so that its successor can start before it ends; what killed predecessors left goes.
 */
export async function openKubeletSockets(
  kubeletFolder: string,
  instance: string | undefined,
  handlers: DraHandlers,
  onStatus: (status: RegistrationStatus) => void,
): Promise<KubeletSockets> {
  const paths = socketPaths(kubeletFolder, instance);
  await makeFolder(paths.folder, 0o700);
  await chmod(paths.folder, 0o700);
  if (instance !== undefined) await removeLeftOver(kubeletFolder);
  const { server, endStreams } = draServer(handlers);
  const dra = await listenUnix(server, paths.dra);
  const registration = await listenUnix(registrationServer(dra.path, onStatus), paths.registration);
  return {
    async missing() {
      for (const socket of [dra, registration]) if (!(await socket.isThere())) return `socket ${socket.path} is gone`;
      return undefined;
    },
    async close() {
      // In this order: once the registration is gone the kubelet makes no more calls.
      await registration.close(closeGraceMs);
      endStreams();
      await dra.close(closeGraceMs);
    },
  };
}
