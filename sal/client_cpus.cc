#include "sal/client_cpus.h"

#include <time.h>

namespace stagefs::sal {
namespace {

ClientCpus clients;

uint64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

void NoteClient() { clients.Note(sched_getcpu(), NowNs()); }

void KeepOffClients() {
  thread_local BackgroundPlace place;
  const int here = sched_getcpu();
  const uint64_t now_ns = NowNs();
  cpu_set_t allowed;
  if (!place.MayChange(clients, here, now_ns) || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  const std::optional<cpu_set_t> chosen = place.Choose(clients, here, allowed, now_ns);
  if (chosen.has_value()) sched_setaffinity(0, sizeof(*chosen), &*chosen);
}

std::optional<cpu_set_t> BackgroundPlace::Choose(const ClientCpus& clients, int here, const cpu_set_t& allowed,
                                                 uint64_t now_ns) {
  if (!MayChange(clients, here, now_ns)) return std::nullopt;
  if (!is_sent_off_) usual_ = allowed;
  is_sent_off_ = false;
  cpu_set_t chosen = usual_;
  if (clients.IsServing(here, now_ns)) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (clients.IsServing(cpu, now_ns)) CPU_CLR(cpu, &chosen);
    }
    is_sent_off_ = CPU_COUNT(&chosen) > 0;
    sent_off_ns_ = now_ns;
    if (!is_sent_off_) chosen = usual_;  // clients are everywhere
  }
  if (CPU_EQUAL(&chosen, &allowed)) return std::nullopt;
  return chosen;
}

}  // namespace stagefs::sal
