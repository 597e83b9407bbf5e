============================= test session starts ==============================
platform linux -- Python 3.11.7, pytest-9.2.0, pluggy-1.7.0
rootdir: /tmp/dev
plugins: timeout-2.4.0, anyio-4.16.0, platformdirs-4.14.5
collected 0 items

=============================== warnings summary ===============================
../../venv/lib/python3.11/site-packages/_pytest/config/__init__.py:1507
  /tmp/dev/venv/lib/python3.11/site-packages/_pytest/config/__init__.py:1507: PytestAssertRewriteWarning: Module already imported so cannot be rewritten; anyio
    self._mark_plugins_for_rewrite(hook, disable_autoload)

-- Docs: https://docs.pytest.org/en/stable/how-to/capture-warnings.html
============================= 1 warning in 43.34s ==============================
