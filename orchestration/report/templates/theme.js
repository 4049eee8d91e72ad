// Runs before the first paint, so that a remembered theme does not flash.
try {
  const theme = localStorage.getItem("rushes-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch { /* storage may be forbidden for files on disk */ }
